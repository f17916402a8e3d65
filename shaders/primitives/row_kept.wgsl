// Columns of a row that an invocation needs again: loaded once and kept, PIECES of them. The kernel defines load_columns.
var<private> kept: array<Columns, PIECES>;

fn first_columns(piece: u32, at: u32) -> Columns {
    kept[piece] = load_columns(at);
    return kept[piece];
}

fn same_columns(piece: u32, at: u32) -> Columns {
    return kept[piece];
}
