// Carried position, one copy per KV head. With two passes the scan has already advanced it by all tokens.
fn first_place(kv: u32) -> u32 {
    let at = params.extra_state + 2u * kv;
    let place = within_turn(bitcast<u32>(state[at]), bitcast<u32>(state[at + 1u]));
    return (place + turn_len() - select(0u, params.queries % turn_len(), INIT == 1u)) % turn_len();
}
