// Query vectors as they are given, times their factor if they have one (tile_queries.wgsl).
fn load_query(p: Place, r: u32, n: u32, i: u32) -> vec4<f32> {
    let head = query_head(p, r);
    let x = load_q(head_start(params.q, p.b, head) + n * params.q.token, 4u * i);
    return query_factor(p.b, head, n) * x;
}
