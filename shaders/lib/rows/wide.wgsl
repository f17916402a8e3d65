// Rows of q, k, v and o, four elements at once (rows.wgsl): D, E, strides and starts are multiples of four.
alias Row = vec4<Elem>;
alias KeyRow = vec4<KeyElem>;

// True where the four elements from `first` on lie within a row of length `size`: all of them do, or none.
fn within(first: u32, size: u32) -> vec4<bool> {
    return vec4<bool>(first < size);
}
