// The row of a slice of x and the group of four columns that an invocation loads, where x has its columns first: neighbouring
// invocations load neighbouring rows. Those behind the last row are where lines_rows.wgsl has them.
fn x_line(i: u32) -> vec2<u32> {
    return select(vec2<u32>(i % ROWS, i / ROWS), vec2<u32>(i / DIM4, i % DIM4), i >= ROWS * DIM4);
}
