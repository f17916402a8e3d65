// Products with weights, tiled: a workgroup computes ROWS rows of x by COLUMNS rows of the weight, from slices of 4 DIM4
// columns in workgroup memory. An invocation has groups of four neighbouring rows and one of four neighbouring columns, so
// that it stores four elements at once whichever of them lie side by side in o.
// Grid: row tiles, column tiles, splits of K; no column tile has two outputs. Reads x, weight and what follows the sums;
// writes o, or partials.
//
// Rows, columns and elements past the end repeat the last ones; products past the end of a row are of zeros. The next slice
// is loaded into registers while a slice is multiplied.
//
// Consts of the prelude: ROW_THREADS, ROWS_EACH, COL_THREADS, KEYS_EACH (4), DIM4, ODD_DIMS, OUTPUTS. Needs a fragment each of
// x_*, lines_*, weight_* and bias, tile.wgsl, dims.wgsl, finish.wgsl or partial_*, products.wgsl, and lanes for rows of
// COL_THREADS.
const ROWS: u32 = ROW_THREADS * ROWS_EACH;
const COLUMNS: u32 = COL_THREADS * KEYS_EACH;
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const ROW_TURNS: u32 = (ROWS * DIM4 + INVOCATIONS - 1u) / INVOCATIONS;
const COLUMN_TURNS: u32 = (COLUMNS * DIM4 + INVOCATIONS - 1u) / INVOCATIONS;
// One group of padding per column, so that columns start in different banks.
const COLUMN_STRIDE: u32 = DIM4 + 1u;

// Slices in the order in which products.wgsl has rows and columns, [ROWS][DIM4] and [COLUMNS][COLUMN_STRIDE], with room for
// loads of more rows than there are.
var<workgroup> wg_rows: array<vec4<f32>, ROW_TURNS * INVOCATIONS>;
var<workgroup> wg_columns: array<vec4<f32>, COLUMN_TURNS * INVOCATIONS / DIM4 * COLUMN_STRIDE>;

fn slice_row(row: u32, c: u32) -> vec4<f32> {
    return wg_rows[row * DIM4 + c];
}

fn slice_key(column: u32, c: u32) -> vec4<f32> {
    return wg_columns[column * COLUMN_STRIDE + c];
}

// The place of a row of the tile: an invocation has every ROW_THREADS-th, and four neighbouring rows of x.
fn row_place(row: u32) -> u32 {
    let four = row / 4u;
    return four % ROW_THREADS + ROW_THREADS * (four / ROW_THREADS * 4u + row % 4u);
}

fn column_place(column: u32) -> u32 {
    return column / 4u + COL_THREADS * (column % 4u);
}

// Loads the slices from column `k` on.
fn load_slices(
    own: Output, first_row: u32, first_column: u32, k: u32, invocation: u32,
    rows: ptr<function, array<vec4<f32>, ROW_TURNS>>, columns: ptr<function, array<vec4<f32>, COLUMN_TURNS>>,
) {
    for (var turn = 0u; turn < ROW_TURNS; turn++) {
        let line = x_line(invocation + INVOCATIONS * turn);
        let row = first_row + line.x;
        let d = k + line.y * 4u;
        count_load(select(0u, four_of(d, params.inner), line.x < ROWS && line.y < DIM4 && row < params.end_row));
        (*rows)[turn] = whole_dims(load_x(min(row, params.end_row - 1u), d), d);
    }
    for (var turn = 0u; turn < COLUMN_TURNS; turn++) {
        let at = invocation + INVOCATIONS * turn;
        let column = first_column + at / DIM4;
        let d = k + at % DIM4 * 4u;
        count_load(select(0u, weight_words(four_of(d, params.inner)), at / DIM4 < COLUMNS && column < own.end));
        (*columns)[turn] = whole_dims(load_weight(own.first + min(column, own.end - 1u), d), d);
    }
}

fn product(tile: Tile, invocation: u32) {
    let own = params.outputs[tile.output];
    let first_row = tile.row;
    let first_column = tile.column;
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    var rows: array<vec4<f32>, ROW_TURNS>;
    var columns: array<vec4<f32>, COLUMN_TURNS>;
    clear_cells();
    load_slices(own, first_row, first_column, tile.start, invocation, &rows, &columns);
    for (var k = tile.start; k < tile.end; k += 4u * DIM4) {
        workgroupBarrier();
        for (var turn = 0u; turn < ROW_TURNS; turn++) {
            let line = x_line(invocation + INVOCATIONS * turn);
            wg_rows[select(row_place(line.x), line.x, line.x >= ROWS) * DIM4 + line.y] = rows[turn];
        }
        for (var turn = 0u; turn < COLUMN_TURNS; turn++) {
            let at = invocation + INVOCATIONS * turn;
            let column = at / DIM4;
            let place = select(column_place(column), column, column >= COLUMNS);
            wg_columns[place * COLUMN_STRIDE + at % DIM4] = columns[turn];
        }
        workgroupBarrier();
        let next = k + 4u * DIM4;
        if (next < tile.end) {
            load_slices(own, first_row, first_column, next, invocation, &rows, &columns);
        }
        add_products(row_thread, col_thread);
    }

    let m = first_column + 4u * col_thread;
    let elements = four_of(m, own.end);
    let biases = load_bias(own.first + m, elements);
    for (var g = 0u; g < ROWS_EACH / 4u; g++) {
        let n = first_row + 4u * (row_thread + ROW_THREADS * g);
        if (own.column == 1u) {
            for (var i = 0u; i < 4u; i++) {
                let at = (4u * g + i) * KEYS_EACH;
                let sums = vec4<f32>(cells[at], cells[at + 1u], cells[at + 2u], cells[at + 3u]) + biases;
                finish(own.offset + (n + i) * own.row + m, select(0u, elements, n + i < params.end_row), sums);
            }
        } else {
            for (var j = 0u; j < 4u; j++) {
                let at = 4u * g * KEYS_EACH + j;
                let sums = vec4<f32>(cells[at], cells[at + KEYS_EACH], cells[at + 2u * KEYS_EACH], cells[at + 3u * KEYS_EACH]);
                let there = select(0u, four_of(n, params.end_row), j < elements);
                finish(own.offset + (m + j) * own.column + n, there, sums + biases[j]);
            }
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn primitives_matmul_tiled(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    product(tile_of(index), invocation);
}
