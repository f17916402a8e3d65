// Decode: elements of keys, queries and values as the tensors have them, times the factors of their vectors.
fn key_element(b: u32, head: u32, d: u32) -> f32 {
    count_load(1u + FACTORS);
    return key_factor(b, head, token) * f32(k[head_start(params.k, b, head) + token * params.k.token + d]);
}

fn query_element(b: u32, head: u32, d: u32) -> f32 {
    count_load(1u + FACTORS);
    return query_factor(b, head, token) * f32(q[head_start(params.q, b, head) + token * params.q.token + d]);
}

fn prepare_values(b: u32, g: u32, first: u32, invocation: u32) {}

fn value_element(b: u32, g: u32, e: u32) -> f32 {
    count_load(1u);
    return f32(v[head_start(params.v, b, g) + token * params.v.token + e]);
}

fn vectors_are_loaded(b: u32, g: u32, invocation: u32) {}

fn keep_vectors(b: u32, g: u32, invocation: u32) {}
