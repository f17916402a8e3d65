// Recurrence, pass 2 of the chunk form by matrix units: the outputs of one chunk of a segment, as chunk_output.wgsl defines them.
// Grid: chunks of a segment, column splits, query heads of a KV head, segments, KV heads. Reads q, k, v, segments; writes o.
//
// Features become f16. The state stays f32: it enters the products as two f16, a number and what rounding left of it, in units
// of a power of two that grows with the largest number so far. Weights become f16 in units of a power of two for each row.
//
// Consts of the prelude: WIDTH, the number of features, CHUNKS, the largest number of chunks of a segment, and those of
// matrix.wgsl. A variant brings key_group (chunk_mapped_keys.wgsl) and what chunk_output.wgsl needs but for scores.

const CHUNK: u32 = 64u;
const TOKENS: u32 = CHUNKS * CHUNK;
const SLICE4: u32 = 8u; // groups of features in workgroup memory at a time
const SLICE_TILES: u32 = 4u * SLICE4 / TILE;
const SLICES: u32 = (STATE4 + SLICE4 - 1u) / SLICE4;
const SLICE_STRIDE: u32 = SLICE4 + 2u;
const ROW_TURNS: u32 = CHUNK * SLICE4 / INVOCATIONS;
const STATE_SQUARES: u32 = SLICE4 * COL_THREADS;
const STATE_TURNS: u32 = max(STATE_SQUARES / INVOCATIONS, 1u);
const VALUE_SQUARES: u32 = CHUNK / 4u * COL_THREADS;

// Where keys and both parts of a state start, and where values start.
const KEYS: u32 = CHUNK * SLICE_STRIDE;
const STATE: u32 = 2u * CHUNK * SLICE_STRIDE;
const STATE_REST: u32 = STATE + 4u * COL_THREADS * SLICE_STRIDE;
const VALUES: u32 = CHUNK * COLUMN_STRIDE;
const HALVES: u32 = max(STATE_REST + 4u * COL_THREADS * SLICE_STRIDE, VALUES + 4u * COL_THREADS * COLUMN_STRIDE);

// A slice of queries and of keys, [CHUNK][SLICE_STRIDE] each, then of the state, [2][4 COL_THREADS][SLICE_STRIDE]. Later the
// weights of a chunk, [CHUNK][COLUMN_STRIDE], and its values, [4 COL_THREADS][COLUMN_STRIDE].
var<workgroup> wg_halves: array<vec4<f16>, HALVES>;
// Sums of features of the state, of a slice.
var<workgroup> wg_norm: array<vec4<f32>, select(1u, SLICE4, NORMED == 1u)>;
// The largest weights of rows, or their sums, [ROWS][PARTS].
var<workgroup> wg_parts: array<f32, ROWS * PARTS>;
// The largest numbers so far: of queries, of keys, and of the state.
var<workgroup> wg_tops: array<atomic<u32>, 3>;

// What an invocation has of its rows.
var<private> sums_of_rows: Share;
var<private> weight_sums: array<f32, ROWS_EACH>;

// Loads a slice: of the queries from token `first` up to `end`, of the keys from token `key` up to `key_end`, and, if `own`, of
// the state that starts at `base` among the stored segments. Returns the exponents of the units of queries, keys and the state.
fn load_slice(
    p: Place,
    slice: u32,
    tokens: vec2<u32>,
    keys: vec2<u32>,
    base: u32,
    own: bool,
    invocation: u32,
) -> vec3<i32> {
    var queries: array<vec4<f32>, ROW_TURNS>;
    var features: array<vec4<f32>, ROW_TURNS>;
    var states: array<vec4<f32>, 4u * STATE_TURNS>;
    for (var turn = 0u; turn < ROW_TURNS; turn++) {
        let token = (invocation + turn * INVOCATIONS) / SLICE4;
        let i = slice * SLICE4 + invocation % SLICE4;
        queries[turn] = query_group(p, p.head_split, tokens.x + token, tokens.y, i);
        features[turn] = key_group(p, keys.x + token, keys.y, i);
    }
    if (FEATURE_UNITS == 1u) {
        var largest = vec2<f32>(0.0);
        for (var turn = 0u; turn < ROW_TURNS; turn++) {
            largest = max(largest, vec2<f32>(largest_of(queries[turn]), largest_of(features[turn])));
        }
        atomicMax(&wg_tops[0], bitcast<u32>(largest.x));
        atomicMax(&wg_tops[1], bitcast<u32>(largest.y));
    }
    var norm = vec4<f32>(0.0);
    if (own) {
        var largest = 0.0;
        for (var turn = 0u; turn < STATE_TURNS; turn++) {
            let i = invocation + turn * INVOCATIONS;
            if (is_square(i, STATE_SQUARES)) {
                let e = (p.split * COL_THREADS + turned_columns(i, COL_THREADS)) * 4u;
                for (var x = 0u; x < 4u; x++) {
                    let d = feature_row(4u * (slice * SLICE4 + turned_rows(i, COL_THREADS)) + x);
                    count_load(select(0u, four_of(e, params.dim_v), d < params.rows));
                    let row = stored_row(base + min(d, params.rows - 1u) * params.dim_v, e);
                    // Past the last row a state is zero.
                    states[4u * turn + x] = select(vec4<f32>(0.0), row, d < params.rows);
                    largest = max(largest, largest_of(states[4u * turn + x]));
                }
            }
        }
        atomicMax(&wg_tops[2], bitcast<u32>(largest));
        if (NORMALIZE == 1u && invocation < SLICE4) {
            for (var c = 0u; c < 4u; c++) {
                let d = feature_row(4u * (slice * SLICE4 + invocation) + c);
                if (d < params.rows) {
                    count_load(1u);
                    norm[c] = segment_at(base + params.rows * params.dim_v + d);
                }
            }
        }
    }
    workgroupBarrier();
    var units = vec3<i32>(0);
    if (FEATURE_UNITS == 1u) {
        units.x = unit_of(0u);
        units.y = unit_of(1u);
    }
    for (var turn = 0u; turn < ROW_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        let at = i / SLICE4 * SLICE_STRIDE + i % SLICE4;
        wg_halves[at] = vec4<f16>(queries[turn] * power(-units.x));
        wg_halves[KEYS + at] = vec4<f16>(features[turn] * power(-units.y));
    }
    if (own) {
        units.z = unit_of(2u);
        for (var turn = 0u; turn < STATE_TURNS; turn++) {
            let i = invocation + turn * INVOCATIONS;
            if (is_square(i, STATE_SQUARES)) {
                var rounded: Square;
                var rest: Square;
                for (var x = 0u; x < 4u; x++) {
                    let scaled = states[4u * turn + x] * power(-units.z);
                    rounded[x] = vec4<f16>(scaled);
                    rest[x] = vec4<f16>(scaled - vec4<f32>(rounded[x]));
                }
                let at = 4u * turned_columns(i, COL_THREADS) * SLICE_STRIDE + turned_rows(i, COL_THREADS);
                store_turned(STATE + at, SLICE_STRIDE, rounded);
                store_turned(STATE_REST + at, SLICE_STRIDE, rest);
            }
        }
        if (NORMALIZE == 1u && invocation < SLICE4) {
            wg_norm[invocation] = norm;
        }
    }
    workgroupBarrier();
    return units;
}

fn scales_of(units: vec3<i32>) -> vec2<f32> {
    return vec2<f32>(power(units.x), power(units.y));
}

fn unit_of(top: u32) -> i32 {
    return exponent_of(bitcast<f32>(atomicLoad(&wg_tops[top]))) - TOP;
}

// Adds the products of a slice of queries with keys, and, if `own`, with the state.
fn add_slice(cells: ptr<function, Block>, sums: ptr<function, Block>, first_row: u32, own: bool) {
    for (var d = 0u; d < turns(SLICE_TILES); d++) {
        var queries: array<MatrixA, ROW_TILES>;
        for (var r = 0u; r < turns(ROW_TILES); r++) {
            queries[r] = matrix_a((first_row + r * TILE) * SLICE_STRIDE + d * TILE4, SLICE_STRIDE);
        }
        for (var e = 0u; e < turns(COLUMN_TILES); e++) {
            let keys = matrix_b_transposed(KEYS + e * TILE * SLICE_STRIDE + d * TILE4, SLICE_STRIDE);
            for (var r = 0u; r < turns(ROW_TILES); r++) {
                let at = r * COLUMN_TILES + e;
                (*cells)[at] = multiply_add(queries[r], keys, (*cells)[at]);
            }
        }
        if (own) {
            for (var e = 0u; e < turns(COLUMN_TILES); e++) {
                let column = e * TILE * SLICE_STRIDE + d * TILE4;
                let state = matrix_b_transposed(STATE + column, SLICE_STRIDE);
                let rest = matrix_b_transposed(STATE_REST + column, SLICE_STRIDE);
                for (var r = 0u; r < turns(ROW_TILES); r++) {
                    let at = r * COLUMN_TILES + e;
                    (*sums)[at] = multiply_add(queries[r], state, (*sums)[at]);
                    (*sums)[at] = multiply_add(queries[r], rest, (*sums)[at]);
                }
            }
        }
    }
}

// Scales sums in units of one slice to those of the next: units only grow.
fn rescale(block: ptr<function, Block>, growth: i32) {
    for (var i = 0u; i < turns(ROW_TILES * COLUMN_TILES); i++) {
        (*block)[i] = scale_c((*block)[i], power(-growth));
    }
}

// The weights of four keys from s on, of token t: both are numbered from the start of their chunk, which starts at `token` and
// `key` of the segment.
fn weights_of(cell: vec4<f32>, token: u32, key: u32, t: u32, s: u32, own: bool) -> vec4<f32> {
    var own_weights = vec4<f32>(0.0);
    for (var c = 0u; c < 4u; c++) {
        // What a token does not see must not reach a power of two.
        let seen = !own || s + c <= t;
        let factor = left_between(token + t, key + select(t, s + c, seen)) * scale_of(key + s + c);
        own_weights[c] = select(0.0, cell[c] * factor, seen);
    }
    return own_weights;
}

// Adds what the keys of a chunk give to the outputs: their values, times weights from products with the queries, whose units
// are `scales`.
fn add_chunk(
    p: Place,
    cells: ptr<function, Block>,
    scales: vec2<f32>,
    token: u32,
    key: u32,
    first: u32,
    end: u32,
    own: bool,
    first_row: u32,
    invocation: u32,
) {
    var share = share_of(cells, first_row, invocation);
    for (var i = 0u; i < ROWS_EACH; i++) {
        let t = own_row(invocation, i);
        var largest = 0.0;
        for (var half = 0u; half < turns(2u); half++) {
            for (var c = 0u; c < PART4; c++) {
                let at = share_at(i, half, c);
                let s = 4u * own_group(invocation, half, c);
                if (!own || s <= t) {
                    share[at] = weights_of(share[at] * scales.x * scales.y, token, key, t, s, own);
                } else {
                    share[at] = vec4<f32>(0.0);
                }
                largest = max(largest, largest_of(share[at]));
            }
        }
        wg_parts[t * PARTS + invocation % PARTS] = largest;
    }
    workgroupBarrier();
    var units: array<i32, ROWS_EACH>;
    for (var i = 0u; i < ROWS_EACH; i++) {
        let t = own_row(invocation, i);
        var largest = 0.0;
        for (var part = 0u; part < PARTS; part++) {
            largest = max(largest, wg_parts[t * PARTS + part]);
        }
        units[i] = exponent_of(largest) - TOP;
        var sum = vec4<f32>(0.0);
        for (var half = 0u; half < turns(2u); half++) {
            for (var c = 0u; c < PART4; c++) {
                let rounded = vec4<f16>(share[share_at(i, half, c)] * power(-units[i]));
                wg_halves[t * COLUMN_STRIDE + own_group(invocation, half, c)] = rounded;
                sum += vec4<f32>(rounded);
            }
        }
        if (NORMALIZE == 1u) {
            weight_sums[i] += (sum.x + sum.y + sum.z + sum.w) * power(units[i]);
        }
    }
    for (var turn = 0u; turn < square_turns(VALUE_SQUARES); turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_square(i, VALUE_SQUARES)) {
            let rows = turned_rows(i, COL_THREADS);
            let group = turned_columns(i, COL_THREADS);
            var square: Square;
            for (var x = 0u; x < 4u; x++) {
                square[x] = vec4<f16>(chunk_values(p, first + 4u * rows + x, end, group));
            }
            store_turned(VALUES + 4u * group * COLUMN_STRIDE + rows, COLUMN_STRIDE, square);
        }
    }
    workgroupBarrier();
    var products: Block;
    clear_block(&products);
    for (var s = 0u; s < turns(COLUMN_TILES); s++) {
        var of_rows: array<MatrixA, ROW_TILES>;
        for (var r = 0u; r < turns(ROW_TILES); r++) {
            of_rows[r] = matrix_a((first_row + r * TILE) * COLUMN_STRIDE + s * TILE4, COLUMN_STRIDE);
        }
        for (var e = 0u; e < turns(COLUMN_TILES); e++) {
            let values = matrix_b_transposed(VALUES + e * TILE * COLUMN_STRIDE + s * TILE4, COLUMN_STRIDE);
            for (var r = 0u; r < turns(ROW_TILES); r++) {
                let at = r * COLUMN_TILES + e;
                products[at] = multiply_add(of_rows[r], values, products[at]);
            }
        }
    }
    var summed = share_of(&products, first_row, invocation);
    for (var i = 0u; i < ROWS_EACH; i++) {
        for (var c = 0u; c < 2u * PART4; c++) {
            sums_of_rows[i * 2u * PART4 + c] += summed[i * 2u * PART4 + c] * power(units[i]);
        }
    }
}

fn store_chunk(p: Place, first: u32, end: u32, invocation: u32) {
    if (NORMALIZE == 1u) {
        workgroupBarrier();
        for (var i = 0u; i < ROWS_EACH; i++) {
            wg_parts[own_row(invocation, i) * PARTS + invocation % PARTS] = weight_sums[i];
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        let t = own_row(invocation, i);
        var weight = 0.0;
        if (NORMALIZE == 1u) {
            for (var part = 0u; part < PARTS; part++) {
                weight += wg_parts[t * PARTS + part];
            }
        }
        for (var half = 0u; half < turns(2u); half++) {
            for (var c = 0u; c < PART4; c++) {
                let sums = sums_of_rows[share_at(i, half, c)];
                store_output(p, first, end, t, own_group(invocation, half, c), sums, weight);
            }
        }
    }
}

fn chunk_of(p: Place, start: u32, own: u32, first: u32, end: u32, first_row: u32, invocation: u32) {
    if (invocation < 3u) {
        atomicStore(&wg_tops[invocation], 0u);
    }
    load_logs(p, start, end, invocation);
    workgroupBarrier();
    for (var i = 0u; i < ROWS_EACH; i++) {
        weight_sums[i] = 0.0;
    }
    var cells: Block;
    var sums: Block;
    clear_block(&cells);
    clear_block(&sums);
    let base = (p.kv * params.stored_segments + state_before(p)) * params.segment_stride;
    var units = vec3<i32>(0);
    for (var slice = 0u; slice < turns(SLICES); slice++) {
        let next = load_slice(p, slice, vec2<u32>(first, end), vec2<u32>(first, end), base, true, invocation);
        if (slice > 0u) {
            let growth = next - units;
            rescale(&sums, growth.x + growth.z);
            if (FEATURE_UNITS == 1u) {
                rescale(&cells, growth.x + growth.y);
            }
        }
        units = next;
        add_slice(&cells, &sums, first_row, true);
        if (NORMALIZE == 1u) {
            for (var i = 0u; i < ROWS_EACH; i++) {
                for (var c = invocation % PARTS; c < SLICE4; c += PARTS) {
                    let q = vec4<f32>(wg_halves[own_row(invocation, i) * SLICE_STRIDE + c]);
                    weight_sums[i] += dot(q, wg_norm[c]) * power(units.x);
                }
            }
        }
    }
    sums_of_rows = share_of(&sums, first_row, invocation);
    for (var i = 0u; i < ROWS_EACH; i++) {
        let left = left_since_start(own * CHUNK + own_row(invocation, i));
        for (var c = 0u; c < 2u * PART4; c++) {
            let sum = sums_of_rows[i * 2u * PART4 + c] * power(units.x) * power(units.z);
            sums_of_rows[i * 2u * PART4 + c] = sum * left;
        }
        weight_sums[i] *= left;
    }
    add_chunk(p, &cells, scales_of(units), own * CHUNK, own * CHUNK, first, end, true, first_row, invocation);
    if (CHUNKS > 1u) {
        for (var chunk = 0u; chunk < own; chunk++) {
            let key = start + chunk * CHUNK;
            clear_block(&cells);
            for (var slice = 0u; slice < turns(SLICES); slice++) {
                let keys = vec2<u32>(key, key + CHUNK);
                let next = load_slice(p, slice, vec2<u32>(first, end), keys, base, false, invocation);
                if (FEATURE_UNITS == 1u && slice > 0u) {
                    let growth = next - units;
                    rescale(&cells, growth.x + growth.y);
                }
                units = next;
                add_slice(&cells, &sums, first_row, false);
            }
            add_chunk(p, &cells, scales_of(units), own * CHUNK, chunk * CHUNK, key, key + CHUNK, false, first_row, invocation);
        }
    }
    store_chunk(p, first, end, invocation);
}

@compute @workgroup_size(INVOCATIONS)
fn recurrence_chunk_matrix(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    lane: Lane,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let chunks = (params.segment + CHUNK - 1u) / CHUNK;
    let home = place(index / chunks, params.queries, lane.invocation);
    let own = index % chunks;
    let first = home.span.first + own * CHUNK;
    let end = min(first + CHUNK, home.span.end);
    if (first >= end) {
        return;
    }
    let p = shared_place(home);
    chunk_of(p, home.span.first, own, first, end, subgroup_of(lane) % SUBGROUPS * SUBGROUP_ROWS, lane.invocation);
}
