// Carried position of a sequence, one copy per KV head. A kernel that runs after the scan finds it advanced by all tokens
// already. Prelude constant: ADVANCED, 1 in such a kernel.
@group(0) @binding(STATE_BINDING) var<storage, read> state: array<f32>; // packed: B G D' E, B G D', B G positions of two words

fn first_place(p: Place) -> u32 {
    let at = position_at(p.kv, p.span.sequence);
    let place = within_turn(bitcast<u32>(state[at]), bitcast<u32>(state[at + 1u]));
    let ahead = select(0u, p.span.length % turn_len(), ADVANCED == 1u);
    return (place + turn_len() - ahead) % turn_len();
}
