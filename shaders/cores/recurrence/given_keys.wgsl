// Key vectors as they are given, times their factor if they have one (tile.wgsl).
fn load_key(p: Place, n: u32, i: u32) -> vec4<f32> {
    let x = load_k(head_start(params.k, p.b, p.key_head) + n * params.k.token, 4u * i);
    return key_factor(p.b, p.key_head, n) * x;
}
