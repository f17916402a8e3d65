// The row of a slice of x and the group of four columns that an invocation loads.
fn x_line(i: u32) -> vec2<u32> {
    return vec2<u32>(i / DIM4, i % DIM4);
}
