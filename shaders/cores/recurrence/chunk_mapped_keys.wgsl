// Features of keys for products of chunks (chunk_mapped.wgsl), four of a token at a time. Tokens from `end` on repeat the last
// one.

// Zero past the head dimension.
fn key_group(p: Place, n: u32, end: u32, i: u32) -> vec4<f32> {
    count_load(select(0u, group_loads(i), n < end));
    return select(vec4<f32>(0.0), feature(load_key(p, min(n, end - 1u), i)), in_group(i));
}
