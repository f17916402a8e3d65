// Number of loads of four neighbouring elements of a vector of q or k, from element d on, with the factor of the vector.
fn vector_loads(d: u32) -> u32 {
    return four_of(d, params.dim_k) + select(0u, FACTORS, d < params.dim_k);
}
