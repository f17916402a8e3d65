// performer-relu, decode: each invocation maps the projections it computed.
fn map_key(b: u32, g: u32, invocation: u32) {
    for (var row = invocation; row < params.rows; row += COLUMNS * LANES) {
        wg_key[row] = max(wg_key[row], 0.0);
    }
}

fn map_query(invocation: u32) {
    for (var row = invocation; row < params.rows; row += COLUMNS * LANES) {
        wg_query[row] = max(wg_query[row], 0.0);
    }
}
