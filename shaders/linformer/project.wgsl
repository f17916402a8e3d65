// Multiplies keys or values by a projection: one workgroup computes a tile of 64 rows of the rank by some columns, over the
// tokens of one split.
// Grid: column tiles, row tiles, splits, units (batch, head). Reads x, matrix; writes projected.
//
// Invocation (row_thread, col_thread) owns rows row_thread + 16 i and four columns. Tokens are processed in steps of 16.
// Prelude constant: COL_THREADS.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B G M dim: k or v
@group(0) @binding(MATRIX_BINDING) var<storage, read> matrix: array<f32>; // 1|H K M: e or f
@group(0) @binding(PROJECTED_BINDING) var<storage, read_write> projected: array<f32>; // [splits][units][K][dim]

const ROW_THREADS: u32 = 16u;
const ROWS_EACH: u32 = 4u;
const ROWS: u32 = ROW_THREADS * ROWS_EACH;
const TOKENS: u32 = 16u;
const TOKENS4: u32 = TOKENS / 4u;
// One column of padding per row, so that rows start in different banks.
const ROW_STRIDE: u32 = TOKENS4 + 1u;
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;

var<workgroup> wg_matrix: array<vec4<f32>, ROWS * ROW_STRIDE>;
var<workgroup> wg_x: array<vec4<f32>, TOKENS * COL_THREADS>;

fn load_matrix(at: u32, token: u32, exists: bool) -> f32 {
    if (!exists) {
        return 0.0;
    }
    count_load(1u);
    return matrix[at + token - params.matrix_base];
}

fn load_x(at: u32, d: u32, exists: bool) -> f32 {
    if (!exists || d >= params.dim) {
        return 0.0;
    }
    count_load(1u);
    return f32(x[at + d]);
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
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
    let x_head = head_start(params.x, unit / params.heads, kv_head);
    let row_thread = invocation / COL_THREADS;
    let col_thread = invocation % COL_THREADS;
    let end = min((split + 1u) * params.split_len, params.keys);

    var sum: array<vec4<f32>, ROWS_EACH>;
    for (var i = 0u; i < ROWS_EACH; i++) {
        sum[i] = vec4<f32>(0.0);
    }
    for (var token = split * params.split_len; token < end; token += TOKENS) {
        workgroupBarrier();
        for (var i = invocation; i < ROWS * TOKENS4; i += INVOCATIONS) {
            let r = first_row + i / TOKENS4;
            let t = token + i % TOKENS4 * 4u;
            let at = head * params.matrix_head + r * params.keys;
            let there = r < params.end_row;
            wg_matrix[i / TOKENS4 * ROW_STRIDE + i % TOKENS4] = vec4<f32>(
                load_matrix(at, t, there && t < end),
                load_matrix(at, t + 1u, there && t + 1u < end),
                load_matrix(at, t + 2u, there && t + 2u < end),
                load_matrix(at, t + 3u, there && t + 3u < end),
            );
        }
        for (var i = invocation; i < TOKENS * COL_THREADS; i += INVOCATIONS) {
            let t = token + i / COL_THREADS;
            let d = first_col + i % COL_THREADS * 4u;
            let at = x_head + t * params.x.token;
            let there = t < end;
            wg_x[i] =
                vec4<f32>(load_x(at, d, there), load_x(at, d + 1u, there), load_x(at, d + 2u, there), load_x(at, d + 3u, there));
        }
        workgroupBarrier();
        for (var t = 0u; t < TOKENS4; t++) {
            let x0 = wg_x[4u * t * COL_THREADS + col_thread];
            let x1 = wg_x[(4u * t + 1u) * COL_THREADS + col_thread];
            let x2 = wg_x[(4u * t + 2u) * COL_THREADS + col_thread];
            let x3 = wg_x[(4u * t + 3u) * COL_THREADS + col_thread];
            for (var i = 0u; i < ROWS_EACH; i++) {
                let m = wg_matrix[(row_thread + ROW_THREADS * i) * ROW_STRIDE + t];
                sum[i] += m.x * x0 + m.y * x1 + m.z * x2 + m.w * x3;
            }
        }
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        let r = first_row + row_thread + ROW_THREADS * i;
        let d = first_col + col_thread * 4u;
        for (var c = 0u; c < 4u; c++) {
            if (r < params.end_row && d + c < params.dim) {
                count_store(1u);
                projected[home(split, unit, r, d + c)] = sum[i][c];
            }
        }
    }
}
