// Features of a tile of keys in workgroup memory, for elementwise feature maps. The operator defines feature(x), of four
// elements.

const ROW4: u32 = DIM4;

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

fn put_key(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    wg_k[i] = select(vec4<f32>(0.0), feature(x), there);
}

// No work here: features are computed while loading.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {}
