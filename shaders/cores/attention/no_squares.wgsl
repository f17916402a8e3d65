// For scores that do not use sums of squares.
fn add_squares(first_tile: bool, first_chunk: bool, invocation: u32) {}

fn row_square(row: u32) -> f32 {
    return 0.0;
}

fn key_square(key: u32) -> f32 {
    return 0.0;
}
