// Features of a tile of keys in workgroup memory, for elementwise feature maps. The operator defines feature(x).

// [TILE][DIM4], zero past the last token and past the head dimension.
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

// Loads tokens first .. first + TILE of one KV head, with zeros from token `end` on.
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

// No work here: features are computed while loading.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {}
