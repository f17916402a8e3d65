// Products with weights by matrix units, x and weight of f16: a workgroup of four subgroups computes ROWS rows of x by COLUMNS
// rows of the weight, each subgroup a quarter of them as matrices in registers. Slices of 32 columns pass through workgroup
// memory, and at the end so do the sums, because single elements of a matrix cannot be read.
// Grid: row tiles, column tiles, splits of K; no column tile has two outputs. Reads x, weight and what follows the sums;
// writes o, or partials.
//
// Rows, columns and elements past the end are as in tiled.wgsl.
//
// Consts of the prelude: LANES (invocations of a subgroup), ROW_TILES and COLUMN_TILES (matrices of a subgroup), ODD_DIMS,
// OUTPUTS. Needs lib/matrix_units.wgsl or lib/matrix_emulated.wgsl, a fragment each of x_*, lines_*, weight_* and bias,
// tile.wgsl, dims.wgsl, and finish.wgsl or partial_*.
const SUBGROUPS: u32 = 4u;
const INVOCATIONS: u32 = SUBGROUPS * LANES;
const ROWS: u32 = 2u * ROW_TILES * TILE;
const COLUMNS: u32 = 2u * COLUMN_TILES * TILE;
const DIM4: u32 = 8u; // groups of four columns of a slice
const TILE4: u32 = TILE / 4u;
const SLICE_TILES: u32 = DIM4 / TILE4;
// Padding of 16 bytes per row, so that rows start in different banks.
const STRIDE: u32 = DIM4 + 2u;
const SUM_STRIDE: u32 = COLUMNS / 4u + 1u;
const SUM_LINES: u32 = 2u * TILE;
// Loads of an invocation, and rows of x that it has room for.
const ROW_TURNS: u32 = (ROWS * DIM4 + INVOCATIONS - 1u) / INVOCATIONS;
const COLUMN_TURNS: u32 = (COLUMNS * DIM4 + INVOCATIONS - 1u) / INVOCATIONS;
const COLUMNS_AT: u32 = ROW_TURNS * INVOCATIONS / DIM4 * STRIDE;

// A slice of x, [ROWS][STRIDE], and behind it one of the weight, [COLUMNS][STRIDE].
var<workgroup> wg_halves: array<vec4<f16>, COLUMNS_AT + COLUMN_TURNS * INVOCATIONS / DIM4 * STRIDE>;
// One row of matrices of every subgroup, [SUM_LINES][SUM_STRIDE].
var<workgroup> wg_floats: array<vec4<f32>, SUM_LINES * SUM_STRIDE>;

// Loads the slices from column `k` on.
fn load_slices(
    tile: Tile, k: u32, invocation: u32,
    rows: ptr<function, array<vec4<f16>, ROW_TURNS>>, columns: ptr<function, array<vec4<f16>, COLUMN_TURNS>>,
) {
    for (var turn = 0u; turn < ROW_TURNS; turn++) {
        let line = x_line(invocation + INVOCATIONS * turn);
        let row = tile.row + line.x;
        let d = k + line.y * 4u;
        count_load(select(0u, four_of(d, params.inner), line.x < ROWS && row < params.end_row));
        (*rows)[turn] = vec4<f16>(whole_dims(load_x(min(row, params.end_row - 1u), d), d));
    }
    let own = params.outputs[tile.output];
    for (var turn = 0u; turn < COLUMN_TURNS; turn++) {
        let at = invocation + INVOCATIONS * turn;
        let column = tile.column + at / DIM4;
        let d = k + at % DIM4 * 4u;
        count_load(select(0u, weight_words(four_of(d, params.inner)), at / DIM4 < COLUMNS && column < own.end));
        (*columns)[turn] = vec4<f16>(whole_dims(load_weight(own.first + min(column, own.end - 1u), d), d));
    }
}

// Writes what follows from the sums of one row of matrices of every subgroup, which are in workgroup memory.
fn write(tile: Tile, r: u32, invocation: u32) {
    let own = params.outputs[tile.output];
    if (own.column == 1u) {
        for (var i = invocation; i < SUM_LINES * COLUMNS / 4u; i += INVOCATIONS) {
            let line = i / (COLUMNS / 4u);
            let c = i % (COLUMNS / 4u);
            let n = tile.row + (line / TILE * ROW_TILES + r) * TILE + line % TILE;
            let m = tile.column + 4u * c;
            let elements = select(0u, four_of(m, own.end), n < params.end_row);
            let sums = wg_floats[line * SUM_STRIDE + c] + load_bias(own.first + m, elements);
            finish(own.offset + n * own.row + m, elements, sums);
        }
    } else {
        for (var i = invocation; i < COLUMNS * SUM_LINES / 4u; i += INVOCATIONS) {
            let line = 4u * (i % (SUM_LINES / 4u));
            let c = i / (SUM_LINES / 4u);
            let n = tile.row + (line / TILE * ROW_TILES + r) * TILE + line % TILE;
            let m = tile.column + c;
            let elements = select(0u, four_of(n, params.end_row), m < own.end);
            var sums: vec4<f32>;
            for (var x = 0u; x < 4u; x++) {
                sums[x] = wg_floats[(line + x) * SUM_STRIDE + c / 4u][c % 4u];
            }
            sums += load_bias(own.first + m, min(elements, 1u)).x;
            finish(own.offset + m * own.column + n, elements, sums);
        }
    }
}

fn product(tile: Tile, invocation: u32, subgroup: u32) {
    let first_row = subgroup / 2u * ROW_TILES * TILE;
    let first_column = subgroup % 2u * COLUMN_TILES * TILE;
    for (var i = invocation; i < TILE * SUM_STRIDE; i += INVOCATIONS) {
        wg_floats[i] = vec4<f32>(0.0);
    }
    workgroupBarrier();
    // The zeros are loaded from memory: NVK would copy sums that start as constants.
    var sums: array<MatrixC, ROW_TILES * COLUMN_TILES>;
    for (var i = 0u; i < ROW_TILES * COLUMN_TILES; i++) {
        sums[i] = matrix_c(0u, SUM_STRIDE);
    }
    var rows: array<vec4<f16>, ROW_TURNS>;
    var columns: array<vec4<f16>, COLUMN_TURNS>;
    load_slices(tile, tile.start, invocation, &rows, &columns);
    for (var k = tile.start; k < tile.end; k += 4u * DIM4) {
        workgroupBarrier();
        for (var turn = 0u; turn < ROW_TURNS; turn++) {
            let line = x_line(invocation + INVOCATIONS * turn);
            wg_halves[line.x * STRIDE + line.y] = rows[turn];
        }
        for (var turn = 0u; turn < COLUMN_TURNS; turn++) {
            let at = invocation + INVOCATIONS * turn;
            wg_halves[COLUMNS_AT + at / DIM4 * STRIDE + at % DIM4] = columns[turn];
        }
        workgroupBarrier();
        let next = k + 4u * DIM4;
        if (next < tile.end) {
            load_slices(tile, next, invocation, &rows, &columns);
        }
        for (var s = 0u; s < SLICE_TILES; s++) {
            var left: array<MatrixA, ROW_TILES>;
            for (var r = 0u; r < ROW_TILES; r++) {
                left[r] = matrix_a((first_row + r * TILE) * STRIDE + s * TILE4, STRIDE);
            }
            for (var e = 0u; e < COLUMN_TILES; e++) {
                let right = matrix_b_transposed(COLUMNS_AT + (first_column + e * TILE) * STRIDE + s * TILE4, STRIDE);
                for (var r = 0u; r < ROW_TILES; r++) {
                    let i = r * COLUMN_TILES + e;
                    sums[i] = multiply_add(left[r], right, sums[i]);
                }
            }
        }
    }
    for (var r = 0u; r < ROW_TILES; r++) {
        workgroupBarrier();
        for (var e = 0u; e < COLUMN_TILES; e++) {
            let at = subgroup / 2u * TILE * SUM_STRIDE + (first_column + e * TILE) / 4u;
            store_c(sums[r * COLUMN_TILES + e], at, SUM_STRIDE);
        }
        workgroupBarrier();
        write(tile, r, invocation);
    }
}

@compute @workgroup_size(INVOCATIONS)
fn primitives_matmul_matrix(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    lane: Lane,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    product(tile_of(index), lane.invocation, subgroup_of(lane) % SUBGROUPS);
}
