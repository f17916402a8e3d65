// Features of a tile of keys in workgroup memory, a map of each element: from the operator, feature(x).

// [TILE][DIM4], zero past the end and past the dimensions.
var<workgroup> wg_k: array<vec4<f32>, TILE * DIM4>;

fn key_features(t: u32, i: u32) -> vec4<f32> {
    return wg_k[t * DIM4 + i];
}

fn state_row(i: u32) -> u32 {
    return i;
}

fn load_k(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return feature(f32(k[at + d]));
}

// Tokens first .. first + TILE of one key head, those from `end` on as zeros.
fn load_keys(p: Place, first: u32, end: u32, invocation: u32) {
    let k_head = head_start(params.k, p.kv / params.kv_heads, key_head(p.kv % params.kv_heads));
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
    load_values(p, first, end, invocation);
}

// Features are made as they are loaded.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {}
