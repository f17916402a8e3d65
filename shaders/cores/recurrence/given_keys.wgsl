// A tile loads key vectors as they are given, times their factor if they have one (tile.wgsl).
fn group_loads(i: u32) -> u32 {
    return vector_loads(4u * i);
}

fn in_group(i: u32) -> vec4<bool> {
    return within(4u * i, params.dim_k);
}

fn load_key(p: Place, n: u32, i: u32) -> vec4<f32> {
    let x = load_k(head_start(params.k, p.b, p.key_head) + n * params.k.token, 4u * i);
    return key_factor(p.b, p.key_head, n) * x;
}
