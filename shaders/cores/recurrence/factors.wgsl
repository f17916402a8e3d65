// Queries and keys are multiplied by one factor per vector before everything else.
@group(0) @binding(FACTORS_BINDING) var<storage, read> factors: array<f32>; // of the heads of q, then of those of k: B heads N

const FACTORS: u32 = 1u; // factors that are loaded with a part of a vector

fn query_factor(b: u32, head: u32, n: u32) -> f32 {
    return factors[head_start(params.q_factor, b, head) + n * params.q_factor.token];
}

fn key_factor(b: u32, head: u32, n: u32) -> f32 {
    return factors[head_start(params.k_factor, b, head) + n * params.k_factor.token];
}
