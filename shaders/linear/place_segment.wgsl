// A carried position, of which every key head has a copy; before the scan, which advances it. Consts of the prelude: GATE and
// GATED, behind whose binding the state is bound.
@group(0) @binding(GATE + GATED) var<storage, read> state: array<f32>; // packed: B G D' E, B G D', then B G positions of two words

fn first_place(kv: u32) -> u32 {
    let at = params.beside + 2u * kv;
    return within_turn(bitcast<u32>(state[at]), bitcast<u32>(state[at + 1u]));
}
