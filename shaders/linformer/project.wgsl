// Multiplies keys or values by a projection: one workgroup computes a tile of 64 rows of the rank by some columns, over the
// tokens of one split.
// Grid: column tiles, row tiles, splits, units (batch, head). Reads x, matrix; writes projected.
//
// Invocation (row_thread, col_thread) owns rows row_thread + ROW_THREADS i and four columns. Tokens are processed in steps of 16.
// Rows, columns and tokens past the end repeat the last ones; only the matrix is zero for tokens past the end.
//
// Consts of the prelude: COL_THREADS, ROWS_EACH. Needs x_wide.wgsl or x_narrow.wgsl, matrix_wide.wgsl or matrix_narrow.wgsl,
// and lanes.
const ROWS: u32 = 64u;
const ROW_THREADS: u32 = ROWS / ROWS_EACH;
const TOKENS: u32 = 16u;
const TOKENS4: u32 = TOKENS / 4u;
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
// Groups of four elements that an invocation loads per step.
const MATRIX_EACH: u32 = ROWS * TOKENS4 / INVOCATIONS;
const X_EACH: u32 = TOKENS * COL_THREADS / INVOCATIONS;
// One column of padding per row, so that rows start in different banks.
const ROW_STRIDE: u32 = TOKENS4 + 1u;

var<workgroup> wg_matrix: array<vec4<f32>, ROWS * ROW_STRIDE>;
var<workgroup> wg_x: array<vec4<f32>, TOKENS * COL_THREADS>;

@compute @workgroup_size(INVOCATIONS)
fn linformer_project(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let first_col = index % params.col_tiles * COL_THREADS * 4u;
    var rest = index / params.col_tiles;
    let first_row = params.first_row + rest % params.row_tiles * ROWS;
    rest = rest / params.row_tiles;
    let split = rest % params.splits;
    let unit = params.first_unit + rest / params.splits;
    let head = unit % params.heads;
    let kv_head = head / (params.heads / params.kv_heads);
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    let start = split * params.split_len;
    let end = min(start + params.split_len, params.keys);

    // Where this invocation's groups of the matrix and of x start.
    var matrix_at: array<u32, MATRIX_EACH>;
    for (var i = 0u; i < MATRIX_EACH; i++) {
        let r = min(first_row + (invocation + i * INVOCATIONS) / TOKENS4, params.end_row - 1u);
        matrix_at[i] = head * params.matrix_head + r * params.matrix_row - params.matrix_base;
    }
    let x_at = head_start(params.x, unit / params.heads, kv_head);
    let own_t = invocation % TOKENS4 * 4u;
    let own_d = first_col + invocation % COL_THREADS * 4u;

    var sum: array<vec4<f32>, ROWS_EACH>;
    for (var i = 0u; i < ROWS_EACH; i++) {
        sum[i] = vec4<f32>(0.0);
    }
    for (var token = start; token < end; token += TOKENS) {
        var matrix_next: array<vec4<f32>, MATRIX_EACH>;
        var x_next: array<vec4<f32>, X_EACH>;
        for (var i = 0u; i < MATRIX_EACH; i++) {
            let there = first_row + (invocation + i * INVOCATIONS) / TOKENS4 < params.end_row;
            count_load(select(0u, four_of(token + own_t, end), there));
            matrix_next[i] = load_matrix(matrix_at[i], token + own_t);
        }
        for (var i = 0u; i < X_EACH; i++) {
            let t = token + invocation / COL_THREADS + i * ROW_THREADS;
            count_load(select(0u, four_of(own_d, params.dim), t < end));
            x_next[i] = load_x(x_at + min(t, end - 1u) * params.x.token, own_d);
        }
        let first = token + own_t;
        let there = vec4<u32>(first, first + 1u, first + 2u, first + 3u) < vec4<u32>(end);
        workgroupBarrier();
        for (var i = 0u; i < MATRIX_EACH; i++) {
            let own = invocation + i * INVOCATIONS;
            wg_matrix[own / TOKENS4 * ROW_STRIDE + own % TOKENS4] = select(vec4<f32>(0.0), matrix_next[i], there);
        }
        for (var i = 0u; i < X_EACH; i++) {
            wg_x[invocation + i * INVOCATIONS] = x_next[i];
        }
        workgroupBarrier();
        for (var t = 0u; t < TOKENS4; t++) {
            let x0 = wg_x[4u * t * COL_THREADS + col_thread];
            let x1 = wg_x[(4u * t + 1u) * COL_THREADS + col_thread];
            let x2 = wg_x[(4u * t + 2u) * COL_THREADS + col_thread];
            let x3 = wg_x[(4u * t + 3u) * COL_THREADS + col_thread];
            for (var i = 0u; i < ROWS_EACH; i++) {
                let m = wg_matrix[(row_thread + ROW_THREADS * i) * ROW_STRIDE + t];
                sum[i] += m.x * x0;
                sum[i] += m.y * x1;
                sum[i] += m.z * x2;
                sum[i] += m.w * x3;
            }
        }
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        let r = first_row + row_thread + ROW_THREADS * i;
        if (r < params.end_row) {
            count_store(four_of(own_d, params.dim));
            store_projected(home(split, unit, r, 0u), own_d, sum[i]);
        }
    }
}
