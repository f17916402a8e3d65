// Tiled attention by matrix units, for f16 storage: one workgroup of four subgroups processes a block of 64 query rows and
// loops over tiles of 32 keys. A subgroup has 16 rows: it holds their queries and their running outputs as matrices, and
// multiplies these by the keys and values of a tile. Products pass through workgroup memory, because single elements of a
// matrix cannot be read: invocations compute scores and weights there element by element, in f32. Weights return to the
// matrices as f16.
//
// The weights of a row are relative to a power of two, its reference, which keeps them within f16. It moves only when a
// weight would exceed 2^15: the outputs then pass through workgroup memory to be scaled. That is rare, and the whole
// workgroup skips it otherwise. Where a reference moves, the largest weight becomes 2^7, which leaves 2^8 to grow.
//
// Grid: row blocks, head splits, KV heads. Reads q, k, v; writes o.
//
// Consts of the prelude: LANES (invocations of a subgroup), DIM_TILES and COLUMN_TILES (matrices along D and E). Needs
// block.wgsl, rows of q, k, v and o with matrix_rows_wide.wgsl or matrix_rows_narrow.wgsl, lib/matrix_units.wgsl or
// lib/matrix_emulated.wgsl, one fragment each of keys_*, seen_* and a score, matrix_squares.wgsl or matrix_no_squares.wgsl,
// sink.wgsl or no_sink.wgsl, lse.wgsl or no_lse.wgsl.
const SUBGROUPS: u32 = 4u;
const INVOCATIONS: u32 = SUBGROUPS * LANES;
const SUBGROUP_ROWS: u32 = 16u;
const ROWS: u32 = SUBGROUPS * SUBGROUP_ROWS;
const KEYS: u32 = 32u;
const ROW_TILES: u32 = SUBGROUP_ROWS / TILE; // of a subgroup
const KEY_TILES: u32 = KEYS / TILE;

// Sizes and strides of workgroup memory count groups of four elements.
const TILE4: u32 = TILE / 4u;
const DIM4: u32 = DIM_TILES * TILE4;
const COLUMN4: u32 = COLUMN_TILES * TILE4;
const WIDTH: u32 = COLUMN4;
const KEY4: u32 = KEYS / 4u;
// Padding of 16 bytes per row, so that rows start in different banks.
const DIM_STRIDE: u32 = DIM4 + 2u;
const WEIGHT_STRIDE: u32 = KEY4 + 2u;
const SCORE_STRIDE: u32 = KEY4 + 1u;
const VALUES: u32 = max(KEYS * DIM_STRIDE, ROWS * WEIGHT_STRIDE); // where values start

// First the queries, [ROWS][DIM_STRIDE]. Then, for each tile, the keys, [KEYS][DIM_STRIDE], and in their place the weights,
// [ROWS][WEIGHT_STRIDE]; behind both the values, one column after another, [4 COLUMN4][WEIGHT_STRIDE].
var<workgroup> wg_halves: array<vec4<f16>, max(VALUES + 4u * COLUMN4 * WEIGHT_STRIDE, ROWS * DIM_STRIDE)>;
// The products of a tile, or 32 columns of the outputs, [ROWS][SCORE_STRIDE].
var<workgroup> wg_floats: array<vec4<f32>, ROWS * SCORE_STRIDE>;
// The largest scores or the sums of weights, [ROWS][PARTS].
var<workgroup> wg_parts: array<f32, ROWS * PARTS>;
// Whether a weight of the tile exceeds what the reference of its row allows: all who find one write the same.
var<workgroup> wg_exceeds: u32;

// A row of a tile is shared by PARTS invocations, or an invocation has ROWS_EACH rows.
const PARTS: u32 = max(INVOCATIONS / ROWS, 1u);
const ROWS_EACH: u32 = max(ROWS / INVOCATIONS, 1u);
const PART4: u32 = KEY4 / PARTS;

// Invocations that load a key, and invocations that load four rows of values: no more than these have columns.
const KEY_PARTS: u32 = INVOCATIONS / KEYS;
const VALUE_PARTS: u32 = min(INVOCATIONS / KEY4, COLUMN4);

const LARGEST: f32 = 15.0; // exponent of the largest weight that f16 is to hold
const START: f32 = 7.0; // exponent of the largest weight of a row when its reference moves

// Terms of a row: a weight is the power of two of its term or, where weights are no exponentials, the term.
alias Terms = array<vec4<f32>, PART4>;

// A part of a row of the workgroup, which one invocation has.
struct RowPart {
    row: u32,
    sees_from: u32, // first key
    sees: u32,      // number of keys
    square: f32,
    reference: f32, // exponent of the unit of weights and outputs
    limit: f32,     // terms above it move the reference
    sum: f32,       // of the weights of this part
}

// Limits of a row that has a reference, and of one that has none yet: any key that it sees exceeds this one or, where weights
// are no exponentials, any weight above 0.
fn usual_limit() -> f32 {
    return select(exp2(LARGEST), LARGEST, EXPONENTIAL != 0u);
}

fn first_limit() -> f32 {
    return select(0.0, 0.5 * LOWEST, EXPONENTIAL != 0u);
}

// The terms of a row's part of the tile at `key`, from the products in workgroup memory.
fn terms_of(row: RowPart, part: u32, key: u32, end: u32, masked: bool) -> Terms {
    var terms: Terms;
    put_scores(row, part, key, end);
    for (var c = 0u; c < PART4; c++) {
        let scores = scores_at(row.row * SCORE_STRIDE + part * PART4 + c);
        if (EXPONENTIAL != 0u) {
            terms[c] = scores - row.reference;
        } else {
            terms[c] = scores * exp2(-row.reference);
        }
    }
    if (masked) {
        let hidden = select(0.0, LOWEST, EXPONENTIAL != 0u);
        for (var c = 0u; c < PART4; c++) {
            let first = key + 4u * (part * PART4 + c);
            let at = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
            let seen = at - row.sees_from < vec4<u32>(row.sees);
            terms[c] = select(vec4<f32>(hidden), terms[c], seen);
        }
    }
    return terms;
}

fn largest_of(terms: Terms) -> f32 {
    var own = terms;
    var largest = own[0];
    for (var c = 1u; c < PART4; c++) {
        largest = max(largest, own[c]);
    }
    return max(max(largest.x, largest.y), max(largest.z, largest.w));
}

// Stores weights as f16, of terms to a reference that has grown by `growth` since. Returns their sum.
fn put_weights(terms: Terms, row: RowPart, part: u32, growth: f32) -> f32 {
    var own = terms;
    var sum = vec4<f32>(0.0);
    for (var c = 0u; c < PART4; c++) {
        var weights = own[c] * exp2(-growth);
        if (EXPONENTIAL != 0u) {
            weights = exp2(own[c] - growth);
        }
        let halves = vec4<f16>(weights);
        wg_halves[row.row * WEIGHT_STRIDE + part * PART4 + c] = halves;
        sum += vec4<f32>(halves);
    }
    return sum.x + sum.y + sum.z + sum.w;
}

// Loads the keys and values of the tile at `key`. Past the last key, loads repeat it: no row sees those.
fn load_tile(key: u32, end: u32, invocation: u32) {
    let j = invocation / KEY_PARTS;
    let k_at = k_start(min(key + j, end - 1u));
    for (var c = 0u; c < DIM4; c += KEY_PARTS) {
        let own = c + invocation % KEY_PARTS;
        if (DIM4 % KEY_PARTS == 0u || own < DIM4) {
            count_load(select(0u, four_of(4u * own, params.dim_k), key + j < end));
            wg_halves[j * DIM_STRIDE + own] = k_halves(k_at, 4u * own);
        }
    }
    let v_head = head_start(params.v, block.batch, block.kv_head);
    let four = invocation / VALUE_PARTS;
    if (VALUE_PARTS * KEY4 == INVOCATIONS || four < KEY4) {
        for (var c = 0u; c < COLUMN4; c += VALUE_PARTS) {
            let own = c + invocation % VALUE_PARTS;
            if (COLUMN4 % VALUE_PARTS == 0u || own < COLUMN4) {
                var values: array<vec4<f16>, 4>;
                for (var x = 0u; x < 4u; x++) {
                    let at = key + 4u * four + x;
                    count_load(select(0u, four_of(4u * own, params.dim_v), at < end));
                    values[x] = v_halves(v_head + min(at, end - 1u) * params.v.token, 4u * own);
                }
                for (var x = 0u; x < 4u; x++) {
                    let column = vec4<f16>(values[0][x], values[1][x], values[2][x], values[3][x]);
                    wg_halves[VALUES + (4u * own + x) * WEIGHT_STRIDE + four] = column;
                }
            }
        }
    }
}

// Loads the queries, with zeros past the end of a row: a key repeats elements there.
fn load_queries(invocation: u32) {
    for (var i = invocation; i < ROWS * DIM4; i += INVOCATIONS) {
        let row = row_of(i / DIM4);
        let d = 4u * (i % DIM4);
        count_load(select(0u, four_of(d, params.dim_k), row.exists));
        let halves = q_halves(row_start(params.q, row), d);
        wg_halves[i / DIM4 * DIM_STRIDE + i % DIM4] = select(vec4<f16>(), halves, within(d, params.dim_k));
    }
}

// Processes one block, which is an argument because its end is the end of a loop with barriers: browsers take what is in a
// private variable for different in each invocation.
fn attention(own: Block, invocation: u32, subgroup: u32) {
    let first_row = subgroup * SUBGROUP_ROWS;
    let part = invocation % PARTS;
    load_queries(invocation);
    for (var i = invocation; i < TILE * SCORE_STRIDE; i += INVOCATIONS) {
        wg_floats[i] = vec4<f32>(0.0);
    }
    if (invocation == 0u) {
        wg_exceeds = 0u;
    }
    workgroupBarrier();
    var queries: array<MatrixA, ROW_TILES * DIM_TILES>;
    for (var r = 0u; r < ROW_TILES; r++) {
        for (var d = 0u; d < DIM_TILES; d++) {
            queries[r * DIM_TILES + d] = matrix_a((first_row + r * TILE) * DIM_STRIDE + d * TILE4, DIM_STRIDE);
        }
    }
    // The zeros are loaded from memory: NVK would copy outputs that start as constants twice per tile.
    var out: array<MatrixC, ROW_TILES * COLUMN_TILES>;
    for (var e = 0u; e < ROW_TILES * COLUMN_TILES; e++) {
        out[e] = matrix_c(0u, SCORE_STRIDE);
    }
    var rows: array<RowPart, ROWS_EACH>;
    for (var i = 0u; i < ROWS_EACH; i++) {
        let row = invocation / PARTS + INVOCATIONS / PARTS * i;
        let query = row_of(row).query;
        rows[i].row = row;
        rows[i].sees_from = keys_start(query, block.keys);
        rows[i].sees = keys_end(query, block.keys) - rows[i].sees_from;
        rows[i].square = row_square(row);
        rows[i].reference = 0.0;
        rows[i].limit = first_limit();
        rows[i].sum = 0.0;
    }

    // Tiles that no row sees are skipped. Masks are needed where some row does not see all keys of a tile.
    let last = own.query + own.queries - 1u;
    let end = keys_end(last, own.keys);
    let whole_from = keys_start(last, own.keys);
    let whole_to = keys_end(own.query, own.keys);
    for (var key = keys_start(own.query, own.keys); key < end; key += KEYS) {
        workgroupBarrier();
        load_tile(key, end, invocation);
        workgroupBarrier();
        put_key_squares(invocation);
        for (var j = 0u; j < KEY_TILES; j++) {
            var products: array<MatrixC, ROW_TILES>;
            for (var r = 0u; r < ROW_TILES; r++) {
                products[r] = zero_c();
            }
            for (var d = 0u; d < DIM_TILES; d++) {
                let keys = matrix_b_transposed(j * TILE * DIM_STRIDE + d * TILE4, DIM_STRIDE);
                for (var r = 0u; r < ROW_TILES; r++) {
                    products[r] = multiply_add(queries[r * DIM_TILES + d], keys, products[r]);
                }
            }
            for (var r = 0u; r < ROW_TILES; r++) {
                store_c(products[r], (first_row + r * TILE) * SCORE_STRIDE + j * TILE4, SCORE_STRIDE);
            }
        }
        workgroupBarrier();
        let masked = key < whole_from || key + KEYS > whole_to;
        var terms: array<Terms, ROWS_EACH>;
        var largest: array<f32, ROWS_EACH>;
        var sums: array<f32, ROWS_EACH>;
        for (var i = 0u; i < ROWS_EACH; i++) {
            terms[i] = terms_of(rows[i], part, key, end, masked);
            largest[i] = largest_of(terms[i]);
            sums[i] = put_weights(terms[i], rows[i], part, 0.0);
            if (largest[i] > rows[i].limit) {
                wg_exceeds = 1u;
            }
        }
        if (workgroupUniformLoad(&wg_exceeds) != 0u) {
            // Move the references of the rows that exceed their limits, and take the weights anew.
            for (var i = 0u; i < ROWS_EACH; i++) {
                wg_parts[rows[i].row * PARTS + part] = largest[i];
            }
            workgroupBarrier();
            var shrink: array<f32, ROWS_EACH>;
            for (var i = 0u; i < ROWS_EACH; i++) {
                var top = largest[i];
                for (var p = 0u; p < PARTS; p++) {
                    top = max(top, wg_parts[rows[i].row * PARTS + p]);
                }
                shrink[i] = 1.0;
                if (top > rows[i].limit) {
                    let growth = select(log2(top), top, EXPONENTIAL != 0u) - START;
                    // A row without a reference has neither outputs nor a sum yet.
                    shrink[i] = select(0.0, exp2(-growth), rows[i].limit == usual_limit());
                    rows[i].reference += growth;
                    rows[i].limit = usual_limit();
                    rows[i].sum *= shrink[i];
                    sums[i] = put_weights(terms[i], rows[i], part, growth);
                }
            }
            // The products have been used: their place serves to scale the outputs.
            for (var first = 0u; first < COLUMN_TILES; first += KEY_TILES) {
                workgroupBarrier();
                store_out(&out, first, first_row);
                workgroupBarrier();
                for (var i = 0u; i < ROWS_EACH; i++) {
                    for (var c = 0u; c < PART4; c++) {
                        wg_floats[rows[i].row * SCORE_STRIDE + part * PART4 + c] *= shrink[i];
                    }
                }
                workgroupBarrier();
                for (var r = 0u; r < ROW_TILES; r++) {
                    for (var e = first; e < min(first + KEY_TILES, COLUMN_TILES); e++) {
                        let at = (first_row + r * TILE) * SCORE_STRIDE + (e - first) * TILE4;
                        out[r * COLUMN_TILES + e] = matrix_c(at, SCORE_STRIDE);
                    }
                }
            }
            if (invocation == 0u) {
                wg_exceeds = 0u;
            }
        }
        for (var i = 0u; i < ROWS_EACH; i++) {
            rows[i].sum += sums[i];
        }
        for (var j = 0u; j < KEY_TILES; j++) {
            for (var r = 0u; r < ROW_TILES; r++) {
                let weights = matrix_a((first_row + r * TILE) * WEIGHT_STRIDE + j * TILE4, WEIGHT_STRIDE);
                for (var e = 0u; e < COLUMN_TILES; e++) {
                    let values = matrix_b_transposed(VALUES + e * TILE * WEIGHT_STRIDE + j * TILE4, WEIGHT_STRIDE);
                    let at = r * COLUMN_TILES + e;
                    out[at] = multiply_add(weights, values, out[at]);
                }
            }
        }
    }

    for (var i = 0u; i < ROWS_EACH; i++) {
        wg_parts[rows[i].row * PARTS + part] = rows[i].sum;
    }
    for (var first = 0u; first < COLUMN_TILES; first += KEY_TILES) {
        workgroupBarrier();
        store_out(&out, first, first_row);
        workgroupBarrier();
        for (var i = 0u; i < ROWS_EACH; i++) {
            var sum = 0.0;
            for (var p = 0u; p < PARTS; p++) {
                sum += wg_parts[rows[i].row * PARTS + p];
            }
            let row = row_of(rows[i].row);
            if (row.exists) {
                // Only weights that are no exponentials have a unit that matters.
                let unit = select(exp2(rows[i].reference), 1.0, EXPONENTIAL != 0u);
                let sums = with_sink(row.head, rows[i].reference, sum * unit);
                if (LSE && first == 0u && part == 0u) {
                    store_lse(block.batch, row.head, row.query, sums.x, sums.y);
                }
                let factor = unit * sums.z / divisor_of(sums.y);
                let at = row_start(params.o, row);
                for (var c = 0u; c < PART4; c++) {
                    let own = part * PART4 + c;
                    let values = wg_floats[rows[i].row * SCORE_STRIDE + own] * factor;
                    if (first * TILE4 + own < COLUMN4) {
                        let e = 4u * (first * TILE4 + own);
                        count_store(four_of(e, params.dim_v));
                        store_o(at, e, values);
                    }
                }
            }
        }
    }
}

// Stores up to 32 columns of a subgroup's outputs, from matrix `first` on.
fn store_out(out: ptr<function, array<MatrixC, ROW_TILES * COLUMN_TILES>>, first: u32, first_row: u32) {
    for (var r = 0u; r < ROW_TILES; r++) {
        for (var e = first; e < min(first + KEY_TILES, COLUMN_TILES); e++) {
            let at = (first_row + r * TILE) * SCORE_STRIDE + (e - first) * TILE4;
            store_c((*out)[r * COLUMN_TILES + e], at, SCORE_STRIDE);
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn attention_matrix(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    lane: Lane,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let own = block_of(index);
    block = own;
    attention(own, lane.invocation, subgroup_of(lane) % SUBGROUPS);
}
