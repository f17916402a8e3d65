// Values of a chunk: those of v. Tokens from `end` on repeat the last one, columns past the value dimension are never stored.
fn chunk_values(p: Place, n: u32, end: u32, col_thread: u32) -> vec4<f32> {
    let e = (p.split * COL_THREADS + col_thread) * 4u;
    count_load(select(0u, four_of(e, params.dim_v), n < end));
    return load_v(head_start(params.v, p.b, p.g) + min(n, end - 1u) * params.v.token, e);
}

fn state_before(p: Place) -> u32 {
    return p.segment;
}
