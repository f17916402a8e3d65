// Columns of a row that an invocation needs again: loaded again (row_kept.wgsl).
fn first_columns(piece: u32, at: u32) -> Columns {
    return load_columns(at);
}

fn same_columns(piece: u32, at: u32) -> Columns {
    return load_columns(at);
}
