// Recurrence, pass 1 by matrix units: the state after the tokens of one segment, starting from zero: K^T V over batches of
// tokens. Grid: column splits, segments, KV heads. Reads k, v; writes segments. Values are multiplied by their factors, and by
// what is left of them at the end of their batch, before they become f16.
//
// Consts of the prelude: WIDTH, the number of features, and those of matrix.wgsl. A variant brings key_group (chunk_mapped_keys.wgsl)
// and feature_row (chunk_mapped.wgsl); decay_none.wgsl with by_token.wgsl, or decay_batches.wgsl.
const BATCH: u32 = 32u; // tokens
const BATCH_TILES: u32 = BATCH / TILE;
const BLOCKS: u32 = (WIDTH + ROWS - 1u) / ROWS; // of 64 rows of the state
const KEY4: u32 = BLOCKS * ROWS / 4u;
const TOKEN4: u32 = BATCH / 4u;
const TOKEN_STRIDE: u32 = TOKEN4 + 2u;
const VALUES: u32 = 4u * KEY4 * TOKEN_STRIDE; // where values start
const KEY_SQUARES: u32 = KEY4 * TOKEN4;
const KEY_TURNS: u32 = max(KEY_SQUARES / INVOCATIONS, 1u);
const VALUE_SQUARES: u32 = COL_THREADS * TOKEN4;
const NORM_ROWS: u32 = (BLOCKS * ROWS + INVOCATIONS - 1u) / INVOCATIONS;

// The features of the keys of a batch, [4 KEY4][TOKEN_STRIDE]; then its values, [4 COL_THREADS][TOKEN_STRIDE].
var<workgroup> wg_halves: array<vec4<f16>, VALUES + 4u * COL_THREADS * TOKEN_STRIDE>;
// The largest factor of values of a batch, and the largest feature so far.
var<workgroup> wg_factor: atomic<u32>;
var<workgroup> wg_feature: atomic<u32>;

const tile_start: u32 = 0u; // a batch is one tile

fn factor_of(t: u32) -> f32 {
    return left_of_token(t) * value_scale(t);
}

// Loads features of keys, and values in units of 2^unit. Returns the exponent of the unit of the features.
fn load_batch(p: Place, first: u32, end: u32, unit: i32, invocation: u32) -> i32 {
    var features: array<vec4<f32>, 4u * KEY_TURNS>;
    var largest = 0.0;
    for (var turn = 0u; turn < KEY_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_square(i, KEY_SQUARES)) {
            for (var t = 0u; t < 4u; t++) {
                let n = first + 4u * turned_rows(i, KEY4) + t;
                // Tokens past the end write nothing.
                features[4u * turn + t] = select(vec4<f32>(0.0), key_group(p, n, end, turned_columns(i, KEY4)), n < end);
                largest = max(largest, largest_of(features[4u * turn + t]));
            }
        }
    }
    var feature_unit = 0;
    if (FEATURE_UNITS == 1u) {
        atomicMax(&wg_feature, bitcast<u32>(largest));
        workgroupBarrier();
        feature_unit = exponent_of(bitcast<f32>(atomicLoad(&wg_feature))) - TOP;
    }
    for (var turn = 0u; turn < KEY_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_square(i, KEY_SQUARES)) {
            var square: Square;
            for (var t = 0u; t < 4u; t++) {
                square[t] = vec4<f16>(features[4u * turn + t] * power(-feature_unit));
            }
            store_turned(4u * turned_columns(i, KEY4) * TOKEN_STRIDE + turned_rows(i, KEY4), TOKEN_STRIDE, square);
        }
    }
    for (var turn = 0u; turn < square_turns(VALUE_SQUARES); turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_square(i, VALUE_SQUARES)) {
            let rows = turned_rows(i, COL_THREADS);
            let group = turned_columns(i, COL_THREADS);
            var square: Square;
            for (var t = 0u; t < 4u; t++) {
                let values = chunk_values(p, first + 4u * rows + t, end, group);
                square[t] = vec4<f16>(values * (factor_of(4u * rows + t) * power(-unit)));
            }
            store_turned(VALUES + 4u * group * TOKEN_STRIDE + rows, TOKEN_STRIDE, square);
        }
    }
    return feature_unit;
}

fn segment_of(p: Place, first_row: u32, invocation: u32) {
    var state: array<MatrixC, BLOCKS * ROW_TILES * COLUMN_TILES>;
    for (var i = 0u; i < turns(BLOCKS * ROW_TILES * COLUMN_TILES); i++) {
        state[i] = zero_c();
    }
    var norms: array<f32, NORM_ROWS>;
    for (var i = 0u; i < NORM_ROWS; i++) {
        norms[i] = 0.0;
    }
    if (invocation == 0u) {
        atomicStore(&wg_factor, 0u);
        atomicStore(&wg_feature, 0u);
    }
    // Exponents of the units of the state, of values, and of features.
    var unit = 0;
    var value_unit = 0;
    var feature_unit = 0;
    var total = 0.0; // log decay of the segment
    for (var batch = p.span.first; batch < p.span.end; batch += BATCH) {
        let begins = batch == p.span.first;
        workgroupBarrier();
        load_decays(p, batch, p.span.end, invocation);
        var left = 1.0;
        var own_unit = 0;
        if (DECAY == 1u) {
            for (var t = invocation; t < BATCH; t += INVOCATIONS) {
                atomicMax(&wg_factor, bitcast<u32>(largest_of(vec4<f32>(factor_of(t)))));
            }
            workgroupBarrier();
            // Few batches make a segment: rounding their decay next to 1 is much less than rounding to f16.
            left = decay_over(batch_log());
            total += batch_log();
            // What is left of earlier values may be less than the batch's own.
            own_unit = exponent_of(bitcast<f32>(atomicLoad(&wg_factor))) + 1;
            own_unit = select(max(own_unit, value_unit + exponent_of(left)), own_unit, begins);
        }
        let own_features = load_batch(p, batch, p.span.end, own_unit, invocation);
        workgroupBarrier();
        if (invocation == 0u) {
            atomicStore(&wg_factor, 0u);
        }
        if (DECAY == 1u || FEATURE_UNITS == 1u) {
            let next = own_unit + own_features;
            // The state is empty before the first batch: it takes any unit.
            let scale = select(left * power(unit - next), 0.0, begins);
            unit = next;
            value_unit = own_unit;
            for (var i = 0u; i < turns(BLOCKS * ROW_TILES * COLUMN_TILES); i++) {
                state[i] = scale_c(state[i], scale);
            }
            for (var i = 0u; i < NORM_ROWS; i++) {
                norms[i] *= left;
            }
        }
        feature_unit = own_features;
        for (var t = 0u; t < turns(BATCH_TILES); t++) {
            var values: array<MatrixB, COLUMN_TILES>;
            for (var e = 0u; e < turns(COLUMN_TILES); e++) {
                values[e] = matrix_b_transposed(VALUES + e * TILE * TOKEN_STRIDE + t * TILE4, TOKEN_STRIDE);
            }
            for (var b = 0u; b < turns(BLOCKS); b++) {
                for (var r = 0u; r < turns(ROW_TILES); r++) {
                    let row = b * ROWS + first_row + r * TILE;
                    let keys = matrix_a(row * TOKEN_STRIDE + t * TILE4, TOKEN_STRIDE);
                    for (var e = 0u; e < turns(COLUMN_TILES); e++) {
                        let at = (b * ROW_TILES + r) * COLUMN_TILES + e;
                        state[at] = multiply_add(keys, values[e], state[at]);
                    }
                }
            }
        }
        if (NORMALIZE == 1u) {
            for (var i = 0u; i < NORM_ROWS; i++) {
                let row = min(invocation + i * INVOCATIONS, BLOCKS * ROWS - 1u);
                for (var t = 0u; t < TOKEN4; t++) {
                    let features = vec4<f32>(wg_halves[row * TOKEN_STRIDE + t]) * power(feature_unit);
                    norms[i] += left_of_token(4u * t) * features.x + left_of_token(4u * t + 1u) * features.y;
                    norms[i] += left_of_token(4u * t + 2u) * features.z + left_of_token(4u * t + 3u) * features.w;
                }
            }
        }
    }

    let base = (p.kv * params.stored_segments + p.segment) * params.segment_stride;
    for (var b = 0u; b < turns(BLOCKS); b++) {
        var block: Block;
        for (var i = 0u; i < turns(ROW_TILES * COLUMN_TILES); i++) {
            block[i] = state[b * ROW_TILES * COLUMN_TILES + i];
        }
        let share = share_of(&block, first_row, invocation);
        for (var i = 0u; i < ROWS_EACH; i++) {
            let d = feature_row(b * ROWS + own_row(invocation, i));
            for (var half = 0u; half < turns(2u); half++) {
                for (var c = 0u; c < PART4; c++) {
                    let e = (p.split * COL_THREADS + own_group(invocation, half, c)) * 4u;
                    if (d < params.rows) {
                        var own = share;
                        count_store(four_of(e, params.dim_v));
                        put_row(base + d * params.dim_v, e, own[share_at(i, half, c)] * power(value_unit) * power(feature_unit));
                    }
                }
            }
        }
    }
    if (NORMALIZE == 1u && p.split == 0u) {
        let norm = base + params.rows * params.dim_v;
        for (var i = 0u; i < NORM_ROWS; i++) {
            let row = invocation + i * INVOCATIONS;
            let d = feature_row(row);
            if (row < BLOCKS * ROWS && d < params.rows) {
                count_store(1u);
                write_segment(norm + d, norms[i]);
            }
        }
    }
    if (DECAY == 1u && p.split == 0u && invocation == 0u) {
        count_store(1u);
        write_segment(base + params.state_len, total);
    }
}

@compute @workgroup_size(INVOCATIONS)
fn recurrence_segment_matrix(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    lane: Lane,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let home = place(index, params.keys, lane.invocation);
    segment_of(shared_place(home), subgroup_of(lane) % SUBGROUPS * SUBGROUP_ROWS, lane.invocation);
}
