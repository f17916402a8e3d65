// Four neighbouring elements of a row, from element `first` on. Loads of them have no branches: past the end of a row they
// repeat some of its elements, and whoever loads takes zero for these where that matters.

// Number of the four elements from `first` on that lie within a row of length `size`.
fn four_of(first: u32, size: u32) -> u32 {
    return min(max(first, size) - first, 4u);
}

// Indices of four elements of the row that starts at `row`.
fn four(row: u32, first: u32, size: u32) -> vec4<u32> {
    return row + min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(size - 1u));
}
