// Features of keys for products of chunks (chunk.wgsl), four of a token at a time, for elementwise feature maps.
// Tokens from `end` on repeat the last one.
const STATE4: u32 = (WIDTH + 3u) / 4u;
const FIRST4: u32 = 0u;
const SECOND4: u32 = STATE4;

// Zero past the head dimension.
fn key_group(p: Place, n: u32, end: u32, i: u32) -> vec4<f32> {
    count_load(select(0u, group_loads(i), n < end));
    return select(vec4<f32>(0.0), feature(load_key(p, min(n, end - 1u), i)), in_group(i));
}

// The row of the stored state of feature d.
fn feature_row(d: u32) -> u32 {
    return d;
}
