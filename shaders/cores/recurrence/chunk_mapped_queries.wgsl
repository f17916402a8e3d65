// Features of queries for products of chunks (chunk_mapped.wgsl).

// Past the head dimension anything finite.
fn query_group(p: Place, r: u32, n: u32, end: u32, i: u32) -> vec4<f32> {
    count_load(select(0u, group_loads(i), n < end));
    return feature(load_query(p, r, min(n, end - 1u), i));
}

fn state_group(p: Place, r: u32, n: u32, end: u32, i: u32) -> vec4<f32> {
    return query_group(p, r, n, end, i);
}
