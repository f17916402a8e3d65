// Delta rules: replaces the values of a tile by what its tokens write, then processes the tile like the other rules.
//
// Token t writes u_t = beta_t (v_t - S^T k_t), where S is the decayed state after the tokens before it. With S_0 the state
// before the tile and L(s, t) the decay over tokens s + 1 to t, this is a triangular system per column (the WY form; its
// matrix is that of the UT transform):
//
//   u_t + beta_t sum_{s < t} (k_t . L(s, t) k_s) u_s = beta_t (v_t - S_0^T L(t) k_t)
//
// We solve it by forward substitution, which is more accurate than multiplying by the inverse if keys repeat and beta is near
// 2. The system multiplies with overlaps of keys that were rounded once and are the same whenever a key comes again. Under
// strengths beta |k|^2 near 2 or below 0 the state does not shrink that rounding, and it adds up from token to token. From
// the first such token of a tile on, tokens are taken one by one: the rounding of each differs and averages out, as in the
// definition. Earlier tokens do not depend on it. Decays are products of consecutive factors, never quotients of two
// products, so a decay that underflows becomes 0.
//
// Rules whose low-rank term acts on the state before its decay (RWKV-7, DPLR) would need three changes: decays up to the
// previous token, L(t - 1) and L(s, t - 1), on the right-hand side; another vector in place of k_t there; and a second vector
// that is written with the result, so two updates of the state per token.
//
// Grid: column splits, head splits, sequences, KV heads. Reads q, k, v, beta, and a page of segments; writes o, and the
// other page at the end. Prelude constants: those of cores/recurrence/output.wgsl, which also loads and stores the state.
@group(0) @binding(BETA_BINDING) var<storage, read> beta: array<Strength>; // B G N

var<workgroup> wg_beta: array<f32, (TILE + 3u) / 4u * 4u>;
// [TILE][TILE]: the matrix of the system below its diagonal, and on it the strengths beta |k|^2.
var<workgroup> wg_overlap: array<f32, (TILE * TILE + 3u) / 4u * 4u>;
// The first: tokens of the tile that the system takes, those before the first whose strength it does not take.
var<workgroup> wg_taken: vec4<u32>;

fn load_beta(p: Place, first: u32, end: u32, invocation: u32) {
    let head = head_start(params.beta, p.b, p.g);
    for (var t = invocation; t < TILE; t += INVOCATIONS) {
        let n = first + t;
        var strength = 0.0;
        if (n < end) {
            count_load(1u);
            strength = f32(beta[head + n * params.beta.token]);
        }
        wg_beta[t] = strength;
    }
}

// Matrix of the system: dot products of each key with the decayed earlier keys of the tile and with itself, times beta.
fn find_overlaps(invocation: u32) {
    for (var i = invocation; i < TILE * TILE; i += INVOCATIONS) {
        let t = i / TILE;
        let s = i % TILE;
        if (s <= t) {
            var sum = 0.0;
            for (var j = 0u; j < DIM4; j++) {
                var key = key_features(s, j);
                if (DECAY == 2u) {
                    for (var r = s + 1u; r <= t; r++) {
                        key *= decay(r, j);
                    }
                }
                sum += dot(key_features(t, j), key);
            }
            if (DECAY == 1u) {
                for (var r = s + 1u; r <= t; r++) {
                    sum *= decay(r, 0u).x;
                }
            }
            wg_overlap[i] = wg_beta[t] * sum;
        }
    }
}

// Product of the state before the tile with its keys, as partial sums like those of query_state.
fn find_answers(row_thread: u32, col_thread: u32) {
    var left: array<vec4<f32>, ROWS4>;
    for (var i = 0u; i < ROWS4; i++) {
        left[i] = vec4<f32>(1.0);
    }
    for (var t = 0u; t < TILE; t++) {
        var sum = vec4<f32>(0.0);
        for (var i = 0u; i < ROWS4; i++) {
            var k = key_features(t, row_thread * ROWS4 + i);
            if (DECAY == 2u) {
                left[i] *= decay(t, row_thread * ROWS4 + i);
                k *= left[i];
            }
            sum += k.x * state_rows[4u * i];
            sum += k.y * state_rows[4u * i + 1u];
            sum += k.z * state_rows[4u * i + 2u];
            sum += k.w * state_rows[4u * i + 3u];
        }
        if (DECAY == 1u) {
            left[0] *= decay(t, 0u);
            sum *= left[0];
        }
        wg_partial[(t * ROW_THREADS + row_thread) * COL_THREADS + col_thread] = sum;
    }
}

// What a token writes in four columns if the state answers with wg_partial.
fn written(t: u32, col_thread: u32) -> vec4<f32> {
    return wg_beta[t] * (wg_v[t * COL_THREADS + col_thread] - sum_partials(t, col_thread));
}

// Replaces the values of the loaded tile by what its tokens write, up to the first token that is not taken by the system, and
// returns that token.
fn correct_values(row_thread: u32, col_thread: u32, invocation: u32) -> u32 {
    find_overlaps(invocation);
    find_answers(row_thread, col_thread);
    workgroupBarrier();
    // The right-hand side replaces the first partial sum that it is made of. The values stay for tokens that are taken one by
    // one.
    for (var i = invocation; i < TILE * COL_THREADS; i += INVOCATIONS) {
        let t = i / COL_THREADS;
        wg_partial[t * INVOCATIONS + i % COL_THREADS] = written(t, i % COL_THREADS);
    }
    if (invocation == INVOCATIONS - 1u) {
        var taken = 0u;
        while (taken < TILE) {
            let strength = wg_overlap[taken * (TILE + 1u)];
            if (!is_taken(strength)) {
                break;
            }
            taken++;
        }
        wg_taken = vec4<u32>(taken);
    }
    let taken = workgroupUniformLoad(&wg_taken).x;
    if (invocation < COL_THREADS) {
        for (var t = 0u; t < taken; t++) {
            var u = wg_partial[t * INVOCATIONS + invocation];
            for (var s = 0u; s < t; s++) {
                u -= wg_overlap[t * TILE + s] * wg_v[s * COL_THREADS + invocation];
            }
            wg_v[t * COL_THREADS + invocation] = u;
        }
    }
    workgroupBarrier();
    return taken;
}

// Replaces the value of one token by what it writes, given the state after the tokens before it.
fn correct_value(t: u32, row_thread: u32, col_thread: u32, invocation: u32) {
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < ROWS4; i++) {
        var k = key_features(t, row_thread * ROWS4 + i);
        // The factors act on the key here, which is shorter than the state.
        if (DECAY != 0u) {
            k *= decay(t, row_thread * ROWS4 + i);
        }
        sum += k.x * state_rows[4u * i];
        sum += k.y * state_rows[4u * i + 1u];
        sum += k.z * state_rows[4u * i + 2u];
        sum += k.w * state_rows[4u * i + 3u];
    }
    wg_partial[(t * ROW_THREADS + row_thread) * COL_THREADS + col_thread] = sum;
    workgroupBarrier();
    if (invocation < COL_THREADS) {
        wg_v[t * COL_THREADS + invocation] = written(t, invocation);
    }
    workgroupBarrier();
}

fn update_and_query(t: u32, row_thread: u32, col_thread: u32) {
    rank_one_update(t, row_thread, col_thread);
    for (var r = 0u; r < READ_HEADS; r++) {
        query_state(r, t, row_thread, col_thread);
    }
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn linear_delta(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let home = place(index, params.keys, invocation);
    let p = shared_place(home);
    let last = home.span.start + min(params.end, home.span.length);
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    load_state(p, invocation);
    for (var start = home.span.start + params.first; start < last; start += params.segment) {
        let end = min(start + params.segment, last);
        for (var batch = start; batch < end; batch += BATCH) {
            load_decays(p, batch, end, invocation);
            let stop = min(batch + BATCH, end);
            for (var n = batch; n < stop; n += TILE) {
                tile_start = n - batch;
                load_queries(p, n, end, invocation);
                load_keys(p, n, end, invocation);
                load_decay(p, n, end, invocation);
                load_beta(p, n, end, invocation);
                workgroupBarrier();
                let taken = correct_values(row_thread, col_thread, invocation);
                for (var t = 0u; t < taken; t++) {
                    update_and_query(t, row_thread, col_thread);
                }
                for (var t = taken; t < TILE; t++) {
                    correct_value(t, row_thread, col_thread, invocation);
                    update_and_query(t, row_thread, col_thread);
                }
                workgroupBarrier();
                store_outputs(p, n, end, invocation);
            }
        }
    }
    if (STORE == 1u && p.head_split == 0u) {
        var kept = p;
        kept.segment += params.write_page;
        store_segment(kept, row_thread, col_thread);
    }
}
