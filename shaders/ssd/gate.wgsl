// z, in the order of the outputs. Const of the prelude: STEPS, of whose bindings it is the third.
@group(0) @binding(STEPS + 2u) var<storage, read> z: array<Elem>; // B N H P

fn gate_at(at: u32) -> f32 {
    count_load(1u);
    return f32(z[at]);
}
