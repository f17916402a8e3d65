// Delta rules in chunks, first of three dispatches: what the tokens of each chunk write, as far as it does not depend on the
// state before the chunk. All chunks are independent here.
//
// Token t writes u_t = beta_t (v_t - S^T k_t), where S is the decayed state after the tokens before it. With S_0 the state before
// the chunk and L(s, t) the decay over tokens s + 1 to t (from the start of the chunk without s), this is a triangular system
// (the WY form; its matrix is that of the UT transform):
//
//   u_t + beta_t sum_{s < t} L(s, t) (k_t . k_s) u_s = beta_t v_t - beta_t L(t) S_0^T k_t
//
// One system has two right-hand sides: `kept` solves it for beta v, and `removed` for beta L(t) k, so that
// u = kept - removed S_0. Columns are independent: an invocation solves one, by forward substitution, which is more accurate
// than multiplying by the inverse if keys repeat. Where the system does not take the strength beta |k|^2 of a token
// (delta_strength.wgsl), the chunk is marked, and the second dispatch takes its tokens one by one.
//
// Grid: columns in splits of INVOCATIONS, segments, KV heads. Segments are chunks. Reads k, v, beta; writes solved
// (delta_solved.wgsl).
//
// Prelude constants: those of chunk.wgsl, KEPT4 and REMOVED4. SLICE4 is so small that slices and matrix fit workgroup memory. A
// variant brings solve_column(p, first, tokens, side, at), which calls solve_four for the fours of a chunk in order.
@group(0) @binding(BETA_BINDING) var<storage, read> beta: array<Strength>; // B G N
@group(0) @binding(SOLVED_BINDING) var<storage, read_write> solved: array<f32>;

// Strengths of the tokens; then strengths times what is left of the state before the chunk.
var<workgroup> wg_factors: array<f32, 2u * CHUNK>;
// The matrix below its diagonal, row by row, each padded to a multiple of four.
var<workgroup> wg_matrix: array<f32, 2112>;
var<workgroup> wg_strong: array<atomic<u32>, 4>; // the first: whether a strength is out of bounds

// Start of row t of the matrix: before it are rows of 0, 4 (four times), 8 (four times), .. elements.
fn row_of(t: u32) -> u32 {
    let fours = (t + 3u) / 4u;
    return select(4u * (2u * fours * (fours - 1u) + (t - 1u - 4u * (fours - 1u)) * fours), 0u, t == 0u);
}

// Products of the chunk's keys with each other, times decays and strengths. Marks a chunk that has a strength out of bounds.
fn find_matrix(p: Place, first: u32, end: u32, row_thread: u32, col_thread: u32, invocation: u32) {
    clear_cells();
    for (var slice = 0u; slice < SLICES; slice++) {
        workgroupBarrier();
        load_keys_twice(p, first, end, slice, invocation);
        workgroupBarrier();
        add_slice(row_thread, col_thread, SLICE4, true, true, false);
    }
    for (var i = 0u; i < EACH; i++) {
        let t = row_thread + ROW_THREADS * i;
        for (var j = 0u; j < PARTS; j++) {
            let s = col_thread + COL_THREADS * j;
            if (is_reached(i, j) && s <= t) {
                let product = wg_factors[t] * cells[i * PARTS + j];
                if (s == t) {
                    if (!is_taken(product)) {
                        atomicStore(&wg_strong[0], 1u);
                    }
                } else {
                    wg_matrix[row_of(t) + s] = left_between(t, s) * product;
                }
            }
        }
    }
    workgroupBarrier();
}

// Queries are keys here.
fn load_keys_twice(p: Place, first: u32, end: u32, slice: u32, invocation: u32) {
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        let group = key_group(p, first + i / SLICE4, end, slice * SLICE4 + i % SLICE4);
        wg_rows[i] = group;
        wg_keys[i / SLICE4 * KEY_STRIDE + i % SLICE4] = group;
    }
}

// The column of this invocation, four tokens each.
var<private> column: array<vec4<f32>, CHUNK / 4u>;

// Where a column's right-hand sides are: the element of token `first` among those of v or of k, and the factors of tokens.
struct Side {
    keys: bool,
    at: u32,
    exists: bool,
    factors: u32,
}

// The side of column c of `kept`, or of the columns of `removed` that follow these.
fn side_of(p: Place, first: u32, c: u32) -> Side {
    if (c < 4u * KEPT4) {
        let row = head_start(params.v, p.b, p.g) + first * params.v.token;
        return Side(false, row + min(c, params.dim_v - 1u), c < params.dim_v, 0u);
    }
    let d = c - 4u * KEPT4;
    let row = head_start(params.k, p.b, p.key_head) + first * params.k.token;
    return Side(true, row + min(d, params.dim_k - 1u), d < params.dim_k, CHUNK);
}

// Right-hand sides of tokens t to t + 3. Tokens past the end repeat the last one, and have a strength of 0.
fn right_sides(p: Place, first: u32, tokens: u32, side: Side, t: u32) -> vec4<f32> {
    var x: vec4<f32>;
    let rows = min(vec4<u32>(t, t + 1u, t + 2u, t + 3u), vec4<u32>(tokens - 1u));
    if (side.keys) {
        let at = side.at + rows * params.k.token;
        x = vec4<f32>(f32(k[at.x]), f32(k[at.y]), f32(k[at.z]), f32(k[at.w]));
        if (FACTORS != 0u) {
            let n = first + rows;
            x *= vec4<f32>(
                key_factor(p.b, p.key_head, n.x),
                key_factor(p.b, p.key_head, n.y),
                key_factor(p.b, p.key_head, n.z),
                key_factor(p.b, p.key_head, n.w),
            );
        }
    } else {
        let at = side.at + rows * params.v.token;
        x = vec4<f32>(f32(v[at.x]), f32(v[at.y]), f32(v[at.z]), f32(v[at.w]));
    }
    for (var r = 0u; r < 4u; r++) {
        count_load(select(0u, 1u + select(0u, FACTORS, side.keys), side.exists && t + r < tokens));
        x[r] *= wg_factors[side.factors + t + r];
    }
    return x;
}

fn row_four(t: u32, i: u32) -> vec4<f32> {
    let at = row_of(t) + 4u * i;
    return vec4<f32>(wg_matrix[at], wg_matrix[at + 1u], wg_matrix[at + 2u], wg_matrix[at + 3u]);
}

// Solves tokens 4 g to 4 g + 3 of a column, from those before them, and stores them.
fn solve_four(p: Place, first: u32, tokens: u32, side: Side, g: u32, at: u32) {
    let t = 4u * g;
    var x = right_sides(p, first, tokens, side, t);
    for (var i = 0u; i < g; i++) {
        let known = column[i];
        let rows = array<vec4<f32>, 4>(row_four(t, i), row_four(t + 1u, i), row_four(t + 2u, i), row_four(t + 3u, i));
        for (var r = 0u; r < 4u; r++) {
            x[r] -= rows[r].x * known.x;
            x[r] -= rows[r].y * known.y;
            x[r] -= rows[r].z * known.z;
            x[r] -= rows[r].w * known.w;
        }
    }
    let second = row_of(t + 1u) + t;
    let third = row_of(t + 2u) + t;
    let fourth = row_of(t + 3u) + t;
    x.y -= wg_matrix[second] * x.x;
    x.z -= wg_matrix[third] * x.x;
    x.z -= wg_matrix[third + 1u] * x.y;
    x.w -= wg_matrix[fourth] * x.x;
    x.w -= wg_matrix[fourth + 1u] * x.y;
    x.w -= wg_matrix[fourth + 2u] * x.z;
    column[g] = x;
    for (var r = 0u; r < 4u; r++) {
        count_store(1u);
        solved[at + (t + r) * 4u * SOLVED4] = x[r];
    }
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn linear_delta_prepare(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let home = place(index, params.queries, invocation);
    let first = home.span.first;
    let end = home.span.end;
    if (first >= end) {
        return;
    }
    let p = shared_place(home);
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    if (invocation < CHUNK) {
        var strength = 0.0;
        if (first + invocation < end) {
            count_load(1u);
            strength = f32(beta[head_start(params.beta, p.b, p.g) + (first + invocation) * params.beta.token]);
        }
        wg_factors[invocation] = strength;
    }
    if (invocation == 0u) {
        atomicStore(&wg_strong[0], 0u);
    }
    load_logs(p, first, end, invocation);
    if (invocation < CHUNK) {
        wg_factors[CHUNK + invocation] = wg_factors[invocation] * left_since_start(invocation);
    }
    find_matrix(p, first, end, row_thread, col_thread, invocation);
    let start = 4u * chunk_start(p);
    if (p.split == 0u && invocation < CHUNK) {
        count_store(1u);
        solved[start + 4u * LEFT_AT + invocation] = left_between(CHUNK - 1u, invocation);
    }
    if (p.split == 0u && invocation == 0u) {
        count_store(2u);
        solved[start + 4u * MARK_AT] = log_since_start(CHUNK - 1u);
        solved[start + 4u * MARK_AT + 1u] = f32(atomicLoad(&wg_strong[0]));
    }
    let c = p.split * INVOCATIONS + invocation;
    if (c >= 4u * SOLVED4) {
        return;
    }
    let at = start + c;
    solve_column(p, first, end - first, side_of(p, first, c), at);
}
