// A sequence from its beginning: no position is carried.
fn first_place(kv: u32) -> u32 {
    return 0u;
}
