// Rows of q, k, v and o, element by element (rows.wgsl).
alias Row = Elem;
alias KeyRow = KeyElem;

// True for each of the four elements from `first` on that lies within a row of length `size`.
fn within(first: u32, size: u32) -> vec4<bool> {
    return vec4<u32>(first, first + 1u, first + 2u, first + 3u) < vec4<u32>(size);
}
