// cosformer: max(x, 0) of each element of a key, times the cosine and times the sine of its token's angle (angle.wgsl). In a
// workgroup the D cosine rows are padded to groups of four, then come the sine rows. The stored state has no padding.
//
// Prelude constant: DIM_K4, groups of four of D. The operator defines first_place(kv), the position of the run's first token
// modulo a turn.

// [TILE][DIM4], zero past the last token and past the head dimension.
var<workgroup> wg_k: array<vec4<f32>, TILE * DIM4>;

fn key_features(t: u32, i: u32) -> vec4<f32> {
    return select(wg_k[t * DIM4 + i], vec4<f32>(0.0), i >= 2u * DIM_K4);
}

fn state_row(i: u32) -> u32 {
    let d = i % (4u * DIM_K4);
    if (i >= 8u * DIM_K4 || d >= params.dim_k) {
        return params.rows;
    }
    return i / (4u * DIM_K4) * params.dim_k + d;
}

fn load_k(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return max(f32(k[at + d]), 0.0);
}

// Loads tokens first .. first + TILE of one KV head, with zeros from token `end` on.
fn load_keys(p: Place, first: u32, end: u32, invocation: u32) {
    let k_head = head_start(params.k, p.kv / params.kv_heads, p.kv % params.kv_heads);
    let start = first_place(p.kv);
    for (var i = invocation; i < TILE * DIM_K4; i += INVOCATIONS) {
        let n = first + i / DIM_K4;
        let d = (i % DIM_K4) * 4u;
        var row = vec4<f32>(0.0);
        var angle = vec2<f32>(0.0);
        if (n < end) {
            let at = k_head + n * params.k.token;
            row = vec4<f32>(load_k(at, d), load_k(at, d + 1u), load_k(at, d + 2u), load_k(at, d + 3u));
            angle = angle_of(start, n);
        }
        let to = i / DIM_K4 * DIM4 + i % DIM_K4;
        wg_k[to] = angle.x * row;
        wg_k[to + DIM_K4] = angle.y * row;
    }
    load_values(p, first, end, invocation);
}

// No work here: features are computed while loading.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {}
