// Queries and keys as they are stored.
const FACTORS: u32 = 0u; // factors that are loaded with a part of a vector

fn query_factor(b: u32, head: u32, n: u32) -> f32 {
    return 1.0;
}

fn key_factor(b: u32, head: u32, n: u32) -> f32 {
    return 1.0;
}
