// The rows of the state are in one part: sums of a row of outputs are complete.
fn combine_row_splits(row: u32, split: u32, e: u32, sum: ptr<function, vec4<f32>>, weight: ptr<function, f32>) -> bool {
    return true;
}
