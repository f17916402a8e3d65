// Solves a column (delta_prepare.wgsl), four tokens at a time: written out, so that what is known of it stays in registers.
fn solve_column(p: Place, first: u32, end: u32, c: u32, at: u32) {
    solve_four(p, first, end, 0u, c, at);
    solve_four(p, first, end, 1u, c, at);
    solve_four(p, first, end, 2u, c, at);
    solve_four(p, first, end, 3u, c, at);
    solve_four(p, first, end, 4u, c, at);
    solve_four(p, first, end, 5u, c, at);
    solve_four(p, first, end, 6u, c, at);
    solve_four(p, first, end, 7u, c, at);
    solve_four(p, first, end, 8u, c, at);
    solve_four(p, first, end, 9u, c, at);
    solve_four(p, first, end, 10u, c, at);
    solve_four(p, first, end, 11u, c, at);
    solve_four(p, first, end, 12u, c, at);
    solve_four(p, first, end, 13u, c, at);
    solve_four(p, first, end, 14u, c, at);
    solve_four(p, first, end, 15u, c, at);
}
