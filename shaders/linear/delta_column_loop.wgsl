// Solves a column (delta_prepare.wgsl), four tokens at a time. For software adapters: they have no registers to
// keep it in, and compile a loop in a tenth of the time.
fn solve_column(p: Place, first: u32, tokens: u32, side: Side, at: u32) {
    for (var g = 0u; g < CHUNK / 4u; g++) {
        solve_four(p, first, tokens, side, g, at);
    }
}
