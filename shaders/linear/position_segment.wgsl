// Carried position, one copy per KV head, before the scan advances it. Prelude constants: GATE and GATED; the state's
// binding is GATE + GATED.
@group(0) @binding(GATE + GATED) var<storage, read> state: array<f32>; // packed: B G D' E, B G D', B G positions of two words

fn first_place(kv: u32) -> u32 {
    let at = params.extra_state + 2u * kv;
    return within_turn(bitcast<u32>(state[at]), bitcast<u32>(state[at + 1u]));
}
