// The row thread of an invocation, as computed.
fn uniform_row(row: u32) -> u32 {
    return row;
}
