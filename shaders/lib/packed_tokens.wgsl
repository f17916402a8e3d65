// The packed sequence of a token: the last one that starts at it or before. Borders do not decrease, and empty sequences have two
// equal ones. The kernel has the borders (border).
fn packed_sequence(token: u32) -> u32 {
    var low = 0u;
    var high = params.sequences;
    while (high - low > 1u) {
        let middle = low + (high - low) / 2u;
        if (border(middle) <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}
