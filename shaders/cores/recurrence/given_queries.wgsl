// A tile loads query vectors as they are given (tile_queries.wgsl).
fn load_query(p: Place, r: u32, n: u32, i: u32) -> vec4<f32> {
    return load_q(head_start(params.q, p.b, query_head(p, r)) + n * params.q.token, 4u * i);
}
