// The sequence starts at position 0.
fn first_place(kv: u32) -> u32 {
    return 0u;
}
