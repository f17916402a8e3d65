// The delta rules: values of a tile become what tokens write, then the tile is walked as under the other rules.
//
// Token t writes u_t = beta_t (v_t - S^T k_t), where S is decayed and holds what the tokens before it wrote. With S_0 the
// state in front of the tile and L(s, t) the decay by tokens s + 1 to t, this is a triangular system for each column (the WY
// form; its matrix is that of the UT transform):
//
//   u_t + beta_t sum_{s < t} (k_t . L(s, t) k_s) u_s = beta_t (v_t - S_0^T L(t) k_t)
//
// It is solved row after row, which for repeated keys and beta near 2 loses less than its inverse would. Decays are products
// of factors of tokens side by side, never a quotient of two products: whatever decays to nothing is nothing.
//
// Rules whose low-rank term acts on the state before it decays (RWKV-7, DPLR) would want: of the answers the decay up to the
// token before, L(t - 1) and L(s, t - 1), another vector in the place of k_t there, and a second one that is written with
// the answer, so two updates of the state a token.
//
// Consts of the prelude: those of recurrence_output.wgsl. From recurrence_output.wgsl the state's way in and out.
@group(0) @binding(7) var<storage, read> beta: array<Elem>; // B G N

var<workgroup> wg_beta: array<f32, TILE>;
// [TILE][TILE]: the matrix of that system below its diagonal.
var<workgroup> wg_overlap: array<f32, TILE * TILE>;

fn load_beta(p: Place, first: u32, end: u32, invocation: u32) {
    let head = head_start(params.beta, p.kv / params.kv_heads, p.kv % params.kv_heads);
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

// What tokens answer to the keys of later ones, of the tile alone.
fn find_overlaps(invocation: u32) {
    for (var i = invocation; i < TILE * TILE; i += INVOCATIONS) {
        let t = i / TILE;
        let s = i % TILE;
        if (s < t) {
            var sum = 0.0;
            for (var j = 0u; j < DIM4; j++) {
                var key = key_features(s, j);
                if (DECAY == 2u) {
                    for (var r = s + 1u; r <= t; r++) {
                        key = left_of(decay(r, j), key);
                    }
                }
                sum += dot(key_features(t, j), key);
            }
            if (DECAY == 1u) {
                for (var r = s + 1u; r <= t; r++) {
                    sum = left_of(decay(r, 0u), vec4<f32>(sum)).x;
                }
            }
            wg_overlap[i] = wg_beta[t] * sum;
        }
    }
}

// What the state in front of the tile answers to its keys: partial sums, as read_state leaves them.
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
                left[i] = left_of(decay(t, row_thread * ROWS4 + i), left[i]);
                k *= left[i];
            }
            sum += k.x * state_rows[4u * i];
            sum += k.y * state_rows[4u * i + 1u];
            sum += k.z * state_rows[4u * i + 2u];
            sum += k.w * state_rows[4u * i + 3u];
        }
        if (DECAY == 1u) {
            left[0] = left_of(decay(t, 0u), left[0]);
            sum *= left[0];
        }
        wg_partial[(t * ROW_THREADS + row_thread) * COL_THREADS + col_thread] = sum;
    }
}

// Of a tile that is loaded: its values become what its tokens write.
fn correct_values(row_thread: u32, col_thread: u32, invocation: u32) {
    find_overlaps(invocation);
    find_answers(row_thread, col_thread);
    workgroupBarrier();
    for (var i = invocation; i < TILE * COL_THREADS; i += INVOCATIONS) {
        let t = i / COL_THREADS;
        wg_v[i] = wg_beta[t] * (wg_v[i] - sum_partials(t, i % COL_THREADS));
    }
    workgroupBarrier();
    if (invocation < COL_THREADS) {
        for (var t = 1u; t < TILE; t++) {
            var u = wg_v[t * COL_THREADS + invocation];
            for (var s = 0u; s < t; s++) {
                u -= wg_overlap[t * TILE + s] * wg_v[s * COL_THREADS + invocation];
            }
            wg_v[t * COL_THREADS + invocation] = u;
        }
    }
    workgroupBarrier();
}

fn walk_delta(index: u32, invocation: u32) {
    let p = place(index);
    let row_thread = invocation / COL_THREADS;
    let col_thread = invocation % COL_THREADS;
    var kept = p;
    kept.segment = params.read_page;
    load_state(kept, invocation);
    for (var start = params.first; start < params.end; start += params.segment) {
        let end = min(start + params.segment, params.end);
        for (var n = start; n < end; n += TILE) {
            load_queries(p, n, end, invocation);
            load_keys(p, n, end, invocation);
            load_decay(p, n, end, invocation);
            load_beta(p, n, end, invocation);
            workgroupBarrier();
            correct_values(row_thread, col_thread, invocation);
            for (var t = 0u; t < TILE; t++) {
                write_state(t, row_thread, col_thread);
                for (var r = 0u; r < READ_HEADS; r++) {
                    read_state(r, t, row_thread, col_thread);
                }
            }
            workgroupBarrier();
            store_outputs(p, n, end, invocation);
        }
    }
    if (STORE == 1u && p.head_split == 0u) {
        kept.segment = params.write_page;
        store_segment(kept, row_thread, col_thread);
    }
}
