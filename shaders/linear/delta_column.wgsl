// Solves a column (delta_prepare.wgsl), four tokens at a time: written out, so that what is known of it stays in registers.
fn solve_column(p: Place, first: u32, tokens: u32, side: Side, at: u32) {
    solve_four(p, first, tokens, side, 0u, at);
    solve_four(p, first, tokens, side, 1u, at);
    solve_four(p, first, tokens, side, 2u, at);
    solve_four(p, first, tokens, side, 3u, at);
    solve_four(p, first, tokens, side, 4u, at);
    solve_four(p, first, tokens, side, 5u, at);
    solve_four(p, first, tokens, side, 6u, at);
    solve_four(p, first, tokens, side, 7u, at);
    solve_four(p, first, tokens, side, 8u, at);
    solve_four(p, first, tokens, side, 9u, at);
    solve_four(p, first, tokens, side, 10u, at);
    solve_four(p, first, tokens, side, 11u, at);
    solve_four(p, first, tokens, side, 12u, at);
    solve_four(p, first, tokens, side, 13u, at);
    solve_four(p, first, tokens, side, 14u, at);
    solve_four(p, first, tokens, side, 15u, at);
}
