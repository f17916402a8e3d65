// Sums of squares of the rows and keys of a workgroup of the tiled core, taken from its chunks as they pass: of the rows
// with the first tile, of the keys with every one.
var<workgroup> wg_row_squares: array<f32, ROWS>;
var<workgroup> wg_key_squares: array<f32, KEYS>;

// Adds a chunk's. Each sum is one invocation's own until the barrier behind the last chunk.
fn add_squares(first_tile: bool, first_chunk: bool, invocation: u32) {
    if (first_tile && invocation < ROWS) {
        var sum = select(wg_row_squares[invocation], 0.0, first_chunk);
        for (var c = 0u; c < DIM4; c++) {
            let four = wg_rows[invocation * DIM_STRIDE + c];
            sum += dot(four, four);
        }
        wg_row_squares[invocation] = sum;
    }
    if (invocation < KEYS) {
        var sum = select(wg_key_squares[invocation], 0.0, first_chunk);
        for (var c = 0u; c < DIM4; c++) {
            let four = wg_keys[invocation * DIM_STRIDE + c];
            sum += dot(four, four);
        }
        wg_key_squares[invocation] = sum;
    }
}

fn row_square(row: u32) -> f32 {
    return wg_row_squares[row];
}

fn key_square(key: u32) -> f32 {
    return wg_key_squares[key];
}
