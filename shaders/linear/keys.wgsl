// Keys and values of a tile into workgroup memory, as features.
@group(0) @binding(1) var<storage, read> k: array<Elem>; // B G M D
@group(0) @binding(2) var<storage, read> v: array<Elem>; // B G M E

fn load_k(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return feature(f32(k[at + d]));
}

fn load_v(at: u32, e: u32) -> f32 {
    if (e >= params.dim_v) {
        return 0.0;
    }
    count_load(1u);
    return f32(v[at + e]);
}

// Tokens first .. first + TILE of one key head, those from `end` on as zeros.
fn load_keys(p: Place, first: u32, end: u32, invocation: u32) {
    let b = p.kv / params.kv_heads;
    let g = p.kv % params.kv_heads;
    let k_head = head_start(params.k, b, g);
    let v_head = head_start(params.v, b, g);
    for (var i = invocation; i < TILE * DIM4; i += INVOCATIONS) {
        let n = first + i / DIM4;
        let d = (i % DIM4) * 4u;
        var row = vec4<f32>(0.0);
        if (n < end) {
            let at = k_head + n * params.k.token;
            row = vec4<f32>(load_k(at, d), load_k(at, d + 1u), load_k(at, d + 2u), load_k(at, d + 3u));
        }
        wg_k[i] = row;
    }
    for (var i = invocation; i < TILE * COL_THREADS; i += INVOCATIONS) {
        let n = first + i / COL_THREADS;
        let e = (p.split * COL_THREADS + i % COL_THREADS) * 4u;
        var row = vec4<f32>(0.0);
        if (n < end) {
            let at = v_head + n * params.v.token;
            row = vec4<f32>(load_v(at, e), load_v(at, e + 1u), load_v(at, e + 2u), load_v(at, e + 3u));
        }
        wg_v[i] = row;
    }
}
