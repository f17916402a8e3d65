// Sums of squares of a workgroup's rows and keys, accumulated from the chunks that tiled attention loads: for rows during
// the first tile, for keys during every tile.
var<workgroup> wg_row_squares: array<f32, ROWS>;
var<workgroup> wg_key_squares: array<f32, KEYS>;

// Adds one chunk. Each sum belongs to a single invocation until the barrier after the last chunk.
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
