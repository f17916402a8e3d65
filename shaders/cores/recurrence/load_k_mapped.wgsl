// Features of a tile of keys in workgroup memory, for elementwise feature maps. The operator defines feature(x), of four elements.

// [TILE][DIM4], zero past the last token and past the head dimension.
var<workgroup> wg_k: array<vec4<f32>, TILE * DIM4>;

fn key_features(t: u32, i: u32) -> vec4<f32> {
    return wg_k[t * DIM4 + i];
}

fn key_feature_at(t: u32, d: u32) -> f32 {
    return wg_k[t * DIM4 + d / 4u][d % 4u];
}

fn state_row(i: u32) -> u32 {
    return i;
}

// Loads tokens first .. first + TILE of one KV head. Tokens from `end` on repeat the last one, and have features of zero.
fn load_keys(p: Place, first: u32, end: u32, invocation: u32) {
    let k_head = head_start(params.k, p.b, p.key_head);
    for (var turn = 0u; turn < (TILE * DIM4 + INVOCATIONS - 1u) / INVOCATIONS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if ((TILE * DIM4) % INVOCATIONS != 0u && i >= TILE * DIM4) {
            break;
        }
        let n = first + i / DIM4;
        let d = (i % DIM4) * 4u;
        count_load(select(0u, four_of(d, params.dim_k), n < end));
        let row = feature(load_k(k_head + min(n, end - 1u) * params.k.token, d));
        wg_k[i] = select(vec4<f32>(0.0), row, within(d, params.dim_k) & vec4<bool>(n < end));
    }
    load_values(p, first, end, invocation);
}

// No work here: features are computed while loading.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {}
