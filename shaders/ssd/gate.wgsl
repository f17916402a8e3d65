// The gate z, in the order of the outputs.
@group(0) @binding(Z_BINDING) var<storage, read> z: array<Elem>; // B N H P

fn gate_at(at: u32) -> f32 {
    count_load(1u);
    return f32(z[at]);
}
