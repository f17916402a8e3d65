// The gate z, in the order of the outputs. Prelude constant: STEPS; z is the third binding from STEPS on.
@group(0) @binding(STEPS + 2u) var<storage, read> z: array<Elem>; // B N H P

fn gate_at(at: u32) -> f32 {
    count_load(1u);
    return f32(z[at]);
}
