// Tiled attention: one workgroup processes a block of query rows and loops over tiles of keys. It keeps a running sum of
// weights and, when weights are exponentials of scores, a running maximum. Scores never leave the workgroup.
//
// A workgroup has ROWS rows: a range of queries for each query head that shares its KV head. Invocation (row_thread,
// col_thread) owns rows row_thread + ROW_THREADS i. For each of them it holds the scores of every COL_THREADS-th key, and later
// every COL_THREADS-th group of four output columns. Keys are processed in tiles of KEYS. Head dimensions come in slices of
// 4 DIM4, so that workgroup memory does not grow with the head dimension. The weights of a tile come in parts of PART_KEYS, the
// values of a part in passes of VALUE_KEYS.
//
// Loads have no branches: rows, keys and dimensions past the end repeat the last one. Products of dimensions past the end are
// zero because the keys are, keys past the end are hidden like those that a query does not see, rows and columns past the end
// are not stored.
//
// Grid: column splits, row blocks, head splits, KV heads. Reads q, k, v; writes o.
//
// Consts of the prelude: ROW_THREADS, ROWS_EACH, COL_THREADS, KEYS_EACH, OUT4, DIM4, VALUE_KEYS, ODD_DIMS. Needs rows of q, k,
// v and o, block.wgsl, products.wgsl, lanes for rows of COL_THREADS, and one fragment each of keys_*, seen_*, pairs_*, a score
// (scaled.wgsl, or the operator's own), squares.wgsl or no_squares.wgsl, sink.wgsl or no_sink.wgsl, lse.wgsl or no_lse.wgsl.
const ROWS: u32 = ROW_THREADS * ROWS_EACH;
const KEYS: u32 = COL_THREADS * KEYS_EACH;
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const WIDTH: u32 = COL_THREADS * OUT4; // columns per workgroup, in groups of four
const ROWS4: u32 = ROWS_EACH / 4u;
const PART_KEYS: u32 = 32u;
const PARTS: u32 = KEYS / PART_KEYS;
const PART_EACH: u32 = KEYS_EACH / PARTS;
// One group of padding per key, so that keys start in different banks.
const KEY_STRIDE: u32 = DIM4 + 1u;
const QUERY_TURNS: u32 = ROWS * DIM4 / INVOCATIONS;
const KEY_TURNS: u32 = KEYS * DIM4 / INVOCATIONS;
const VALUE_TURNS: u32 = VALUE_KEYS * WIDTH / INVOCATIONS;
const SPACE: u32 = 512u;
const NO_PAIR: u32 = 0xffffffffu;
// Maxima of a row are combined in two steps: four neighbours first, into vectors behind those of the invocations.
const QUARTERS: u32 = COL_THREADS / 4u;
const QUARTERS_AT: u32 = ROWS * QUARTERS;

// Two uses, one after the other: a slice of the queries, [ROWS][DIM4]; a part of the weights of a tile,
// [ROW_THREADS][ROWS4][PART_KEYS]. One vec4 holds the weights of four rows of a row thread: if several invocations wrote parts
// of the same vec4, the writes would race.
var<workgroup> wg_rows: array<vec4<f32>, SPACE>;
// Three uses, one after the other: a slice of the keys, [KEYS][KEY_STRIDE], and behind it sums of squares; the maxima or sums
// of four rows from every invocation, [ROW_THREADS][ROWS4][COL_THREADS]; the values of one pass, [VALUE_KEYS][WIDTH].
var<workgroup> wg_keys: array<vec4<f32>, SPACE>;

// Four elements of a slice, without those past the end of a row.
fn whole_dims(four: vec4<f32>, d: u32) -> vec4<f32> {
    return select(four, select(vec4<f32>(0.0), four, within(d, params.dim_k)), vec4<bool>(ODD_DIMS != 0u));
}

// Loads the values of keys key .. key + VALUE_KEYS.
fn load_values(key: u32, end: u32, invocation: u32) {
    let v_head = head_start(params.v, block.batch, block.kv_head);
    let e = block.column + invocation % WIDTH * 4u;
    var fetched: array<vec4<f32>, VALUE_TURNS>;
    for (var turn = 0u; turn < VALUE_TURNS; turn++) {
        let j = key + invocation / WIDTH + INVOCATIONS / WIDTH * turn;
        count_load(select(0u, four_of(e, params.dim_v), j < end));
        fetched[turn] = load_v(v_head + min(j, end - 1u) * params.v.token, e);
    }
    for (var turn = 0u; turn < VALUE_TURNS; turn++) {
        wg_keys[invocation + INVOCATIONS * turn] = fetched[turn];
    }
}

// Publishes maxima or sums of the rows of an invocation.
fn put_rows(row_thread: u32, col_thread: u32, r: u32, own: vec4<f32>) {
    wg_keys[(row_thread * ROWS4 + r) * COL_THREADS + col_thread] = own;
}

// Combines the published maxima four by four.
fn combine_maxima(invocation: u32) {
    if (invocation < QUARTERS * ROWS / 4u) {
        let at = invocation * 4u;
        wg_keys[QUARTERS_AT + invocation] = max(max(wg_keys[at], wg_keys[at + 1u]), max(wg_keys[at + 2u], wg_keys[at + 3u]));
    }
}

// Maxima of four rows over all invocations that share them.
fn all_maxima(row_thread: u32, r: u32) -> vec4<f32> {
    let home = QUARTERS_AT + (row_thread * ROWS4 + r) * QUARTERS;
    var all = wg_keys[home];
    for (var c = 1u; c < QUARTERS; c++) {
        all = max(all, wg_keys[home + c]);
    }
    return all;
}

// Sums of four rows over all invocations that share them.
fn all_sums(row_thread: u32, r: u32) -> vec4<f32> {
    let home = (row_thread * ROWS4 + r) * COL_THREADS;
    var all = wg_keys[home];
    for (var c = 1u; c < COL_THREADS; c++) {
        all += wg_keys[home + c];
    }
    return all;
}

fn slice_row(row: u32, c: u32) -> vec4<f32> {
    return wg_rows[row * DIM4 + c];
}

fn slice_key(key: u32, c: u32) -> vec4<f32> {
    return wg_keys[key * KEY_STRIDE + c];
}

// Processes one block, which is an argument because its keys are the bounds of a loop with barriers: browsers take what is in a
// private variable for different in each invocation.
fn attention(own: Block, invocation: u32) {
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    // Per row: the running maximum, and this invocation's share of the sum of weights.
    var top: array<f32, ROWS_EACH>;
    var sum: array<f32, ROWS_EACH>;
    var out: array<vec4<f32>, ROWS_EACH * OUT4>;
    for (var i = 0u; i < ROWS_EACH; i++) {
        top[i] = LOWEST;
        sum[i] = 0.0;
    }
    for (var i = 0u; i < ROWS_EACH * OUT4; i++) {
        out[i] = vec4<f32>(0.0);
    }
    // The rows that this invocation loads.
    var loads_at: array<u32, QUERY_TURNS>;
    var loads: array<bool, QUERY_TURNS>;
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let row = row_of((invocation + INVOCATIONS * turn) / DIM4);
        loads_at[turn] = row_start(params.q, row);
        loads[turn] = row.exists;
    }

    // Tiles that no row sees are skipped. Tiles of which every row sees all keys need no mask.
    let last_query = own.query + own.queries - 1u;
    let start = keys_start(own.query, own.keys);
    let end = keys_end(last_query, own.keys);
    let all_from = keys_start(last_query, own.keys);
    let all_to = keys_end(own.query, own.keys);
    let k_head = head_start(params.k, block.batch, block.kv_head);
    let own_line = invocation / DIM4;
    let own_d = invocation % DIM4 * 4u;
    let hidden = select(LOWEST, 0.0, EXPONENTIAL == 0u);
    for (var key = start; key < end; key += KEYS) {
        clear_cells();
        start_squares();
        for (var first = 0u; first < params.dim_k; first += 4u * DIM4) {
            let d = first + own_d;
            workgroupBarrier();
            var queries: array<vec4<f32>, QUERY_TURNS>;
            var keys: array<vec4<f32>, KEY_TURNS>;
            for (var turn = 0u; turn < QUERY_TURNS; turn++) {
                count_load(select(0u, four_of(d, params.dim_k), loads[turn]));
                queries[turn] = load_q(loads_at[turn], d);
            }
            for (var turn = 0u; turn < KEY_TURNS; turn++) {
                let j = key + own_line + INVOCATIONS / DIM4 * turn;
                count_load(select(0u, four_of(d, params.dim_k), j < end));
                keys[turn] = load_k(k_head + min(j, end - 1u) * params.k.token, d);
            }
            for (var turn = 0u; turn < QUERY_TURNS; turn++) {
                wg_rows[invocation + INVOCATIONS * turn] = whole_dims(queries[turn], d);
            }
            for (var turn = 0u; turn < KEY_TURNS; turn++) {
                let own = own_line + INVOCATIONS / DIM4 * turn;
                wg_keys[own * KEY_STRIDE + invocation % DIM4] = whole_dims(keys[turn], d);
            }
            workgroupBarrier();
            add_squares(invocation);
            add_products(row_thread, col_thread);
        }
        put_squares(invocation);
        workgroupBarrier();
        var k_square: array<f32, KEYS_EACH>;
        for (var j = 0u; j < KEYS_EACH; j++) {
            k_square[j] = key_square(col_thread + COL_THREADS * j);
        }
        for (var i = 0u; i < ROWS_EACH; i++) {
            let q_square = row_square(row_thread + ROW_THREADS * i);
            for (var j = 0u; j < KEYS_EACH; j++) {
                cells[i * KEYS_EACH + j] = score_of(cells[i * KEYS_EACH + j], q_square, k_square[j]);
            }
        }
        // Scores that need the vectors themselves are rare. They are made one by one: that needs no copy of the code for each.
        while (REVISED) {
            var pair = NO_PAIR;
            for (var i = 0u; i < ROWS_EACH * KEYS_EACH; i++) {
                pair = select(pair, i, is_rough(cells[i]));
            }
            if (pair == NO_PAIR) {
                break;
            }
            let at = min(key + col_thread + pair % KEYS_EACH * COL_THREADS, end - 1u);
            let exact = exact_score(row_thread + pair / KEYS_EACH * ROW_THREADS, at);
            for (var i = 0u; i < ROWS_EACH * KEYS_EACH; i++) {
                cells[i] = select(cells[i], exact, pair == i);
            }
        }
        if (key < all_from || key + KEYS > all_to) {
            for (var i = 0u; i < ROWS_EACH; i++) {
                let query = row_of(row_thread + ROW_THREADS * i).query;
                let sees_from = keys_start(query, block.keys);
                let sees_to = keys_end(query, block.keys);
                for (var j = 0u; j < KEYS_EACH; j++) {
                    let at = key + col_thread + COL_THREADS * j;
                    let seen = at >= sees_from && at < sees_to;
                    cells[i * KEYS_EACH + j] = select(hidden, cells[i * KEYS_EACH + j], seen);
                }
            }
        }
        if (PAIRS) {
            for (var i = 0u; i < ROWS_EACH; i++) {
                let row = row_of(row_thread + ROW_THREADS * i);
                let pairs = pair_row(block.batch, row.head, row.query);
                for (var j = 0u; j < KEYS_EACH; j++) {
                    let own = cells[i * KEYS_EACH + j];
                    // Other scores are hidden already, or belong to rows that are not stored.
                    if (row.exists && own > LOWEST) {
                        let at = key + col_thread + COL_THREADS * j;
                        let extra = pair_extra(pairs, at);
                        let seen = pair_seen(pairs, at, extra);
                        cells[i * KEYS_EACH + j] = select(hidden, with_extra(own, extra), seen);
                    }
                }
            }
        }
        if (EXPONENTIAL != 0u) {
            squares_read();
            for (var r = 0u; r < ROWS4; r++) {
                var own = vec4<f32>(top[4u * r], top[4u * r + 1u], top[4u * r + 2u], top[4u * r + 3u]);
                for (var i = 0u; i < 4u; i++) {
                    for (var j = 0u; j < KEYS_EACH; j++) {
                        own[i] = max(own[i], cells[(4u * r + i) * KEYS_EACH + j]);
                    }
                }
                put_rows(row_thread, col_thread, r, own);
            }
            workgroupBarrier();
            combine_maxima(invocation);
            workgroupBarrier();
            for (var r = 0u; r < ROWS4; r++) {
                let all = all_maxima(row_thread, r);
                for (var i = 0u; i < 4u; i++) {
                    let row = 4u * r + i;
                    // While a row has seen no key, its weights are zero.
                    let base = select(all[i], 0.0, all[i] == LOWEST);
                    let shrink = exp2(top[row] - base);
                    top[row] = all[i];
                    sum[row] *= shrink;
                    for (var c = 0u; c < OUT4; c++) {
                        out[row * OUT4 + c] *= shrink;
                    }
                    for (var j = 0u; j < KEYS_EACH; j++) {
                        cells[row * KEYS_EACH + j] = exp2(cells[row * KEYS_EACH + j] - base);
                    }
                }
            }
        }
        for (var i = 0u; i < ROWS_EACH; i++) {
            for (var j = 0u; j < KEYS_EACH; j++) {
                sum[i] += cells[i * KEYS_EACH + j];
            }
        }
        for (var part = 0u; part < PARTS; part++) {
            if (part > 0u) {
                workgroupBarrier();
            }
            for (var j = 0u; j < PART_EACH; j++) {
                for (var r = 0u; r < ROWS4; r++) {
                    var own: vec4<f32>;
                    for (var i = 0u; i < 4u; i++) {
                        let at = (4u * r + i) * KEYS_EACH + j;
                        own[i] = select(cells[at], cells[at + KEYS_EACH - PART_EACH], part > 0u);
                    }
                    wg_rows[(row_thread * ROWS4 + r) * PART_KEYS + col_thread + COL_THREADS * j] = own;
                }
            }
            for (var some = 0u; some < PART_KEYS; some += VALUE_KEYS) {
                workgroupBarrier();
                load_values(key + part * PART_KEYS + some, end, invocation);
                workgroupBarrier();
                for (var first = 0u; first < VALUE_KEYS; first += 8u) {
                    for (var turn = 0u; turn < 8u; turn++) {
                        let j = first + turn;
                        var weights: array<vec4<f32>, ROWS4>;
                        for (var r = 0u; r < ROWS4; r++) {
                            weights[r] = wg_rows[(row_thread * ROWS4 + r) * PART_KEYS + some + j];
                        }
                        for (var c = 0u; c < OUT4; c++) {
                            let value = wg_keys[j * WIDTH + col_thread + COL_THREADS * c];
                            for (var i = 0u; i < ROWS_EACH; i++) {
                                out[i * OUT4 + c] += weights[i / 4u][i % 4u] * value;
                            }
                        }
                    }
                }
            }
        }
    }

    workgroupBarrier();
    for (var r = 0u; r < ROWS4; r++) {
        let own = vec4<f32>(sum[4u * r], sum[4u * r + 1u], sum[4u * r + 2u], sum[4u * r + 3u]);
        put_rows(row_thread, col_thread, r, own);
    }
    workgroupBarrier();
    for (var r = 0u; r < ROWS4; r++) {
        let totals = all_sums(row_thread, r);
        for (var i = 0u; i < 4u; i++) {
            let row = row_of(row_thread + ROW_THREADS * (4u * r + i));
            if (row.exists) {
                let sums = with_sink(row.head, top[4u * r + i], totals[i]);
                if (LSE && block.column == 0u && col_thread == 0u) {
                    store_lse(block.batch, row.head, row.query, sums.x, sums.y);
                }
                let factor = sums.z / divisor_of(sums.y);
                let at = row_start(params.o, row);
                for (var c = 0u; c < OUT4; c++) {
                    let e = block.column + (col_thread + COL_THREADS * c) * 4u;
                    count_store(four_of(e, params.dim_v));
                    store_o(at, e, out[(4u * r + i) * OUT4 + c] * factor);
                }
            }
        }
    }
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn attention_tiled(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let own = block_of(index);
    block = own;
    attention(own, invocation);
}
