// Vectors of queries and keys as they are given: loads of group i, and which of its elements exist.
fn group_loads(i: u32) -> u32 {
    return vector_loads(4u * i);
}

fn in_group(i: u32) -> vec4<bool> {
    return within(4u * i, params.dim_k);
}
