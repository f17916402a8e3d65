// The sequence starts at position 0.
fn first_place(p: Place) -> u32 {
    return 0u;
}
