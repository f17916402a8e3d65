// Four neighbouring elements of a row, from element `first` on. Loads of them have no branches: past the end of a row they
// repeat some of its elements, and whoever loads takes zero for these where that matters.

// Number of the four elements from `first` on that lie within a row of length `size`.
fn four_of(first: u32, size: u32) -> u32 {
    return min(max(first, size) - first, 4u);
}
