// Factors of the features of keys for products of chunks (chunk.wgsl). Tokens from `end` on repeat the last one.
fn key_group(p: Place, n: u32, end: u32, i: u32) -> vec4<f32> {
    return factor_group(key_features_at(p, min(n, end - 1u)), i, n < end);
}
