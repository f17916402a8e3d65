// Products of a slice of rows and keys in workgroup memory. An invocation has rows row_thread + ROW_THREADS i and keys
// col_thread + COL_THREADS j of a tile.
//
// Needs the consts ROW_THREADS, ROWS_EACH, COL_THREADS, KEYS_EACH and DIM4, and the functions slice_row(row, c) and
// slice_key(key, c) of the kernel: group c of four dimensions.

// The cells of an invocation, [ROWS_EACH][KEYS_EACH]: products, and later what the kernel makes of them.
var<private> cells: array<f32, ROWS_EACH * KEYS_EACH>;

fn clear_cells() {
    for (var i = 0u; i < ROWS_EACH * KEYS_EACH; i++) {
        cells[i] = 0.0;
    }
}

// Adds the products of a slice, as chains of multiply-adds.
fn add_products(row_thread: u32, col_thread: u32) {
    for (var c = 0u; c < DIM4; c++) {
        var keys: array<vec4<f32>, KEYS_EACH>;
        for (var j = 0u; j < KEYS_EACH; j++) {
            keys[j] = slice_key(col_thread + COL_THREADS * j, c);
        }
        for (var i = 0u; i < ROWS_EACH; i++) {
            let row = slice_row(row_thread + ROW_THREADS * i, c);
            for (var j = 0u; j < KEYS_EACH; j++) {
                var own = cells[i * KEYS_EACH + j];
                own += row.x * keys[j].x;
                own += row.y * keys[j].y;
                own += row.z * keys[j].z;
                own += row.w * keys[j].w;
                cells[i * KEYS_EACH + j] = own;
            }
        }
    }
}
