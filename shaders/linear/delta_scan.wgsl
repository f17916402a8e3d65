// Delta rules in chunks, second of three dispatches: walks along the chunks, and stores the state before each and what its tokens
// write: u = kept - removed S (delta_prepare.wgsl), S = L S + (L K)^T u. A workgroup has COLUMNS columns of a state, which do not
// depend on others. A chunk that is marked is taken token by token.
//
// Invocation (row_thread, col_thread) has the tokens, or the rows of the state, row_thread + ROW_THREADS i, and four columns.
//
// Grid: column splits, carried states. Reads k, v, beta; reads and writes segments and solved. Prelude constants: ROW_THREADS and
// COL_THREADS, those of delta_solved.wgsl; STATE_ROWS, rows of the state an invocation; SLICE4, groups of four dimensions or of
// four tokens in workgroup memory at a time; WIDTH. Stored states: one for each sequence, from which the walk starts and where it
// ends, then those before the chunks of this step, from stored segment params.first up to params.end.
@group(0) @binding(BETA_BINDING) var<storage, read> beta: array<Strength>; // B G N
@group(0) @binding(SOLVED_BINDING) var<storage, read_write> solved: array<vec4<f32>>;

override INIT: u32 = 0u;  // 1: the stored states of sequences that begin here are there; 0: they start from zero
override STORE: u32 = 0u; // 1: states are stored at the end

const CHUNK: u32 = 64u;
const TOKENS: u32 = CHUNK;
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const EACH: u32 = CHUNK / ROW_THREADS;
const ROWS: u32 = ROW_THREADS * STATE_ROWS;
const STRIDE: u32 = SLICE4 + 1u;
const LINES: u32 = max(CHUNK, ROWS);
const REMOVED_TURNS: u32 = CHUNK * SLICE4 / INVOCATIONS;
const KEY_ITEMS: u32 = ROWS / 4u * SLICE4;
const KEY_TURNS: u32 = max(INVOCATIONS / KEY_ITEMS, 1u);

var<workgroup> wg_state: array<vec4<f32>, ROWS * COL_THREADS>;
// What tokens write, times what is left of it at the end of the chunk.
var<workgroup> wg_written: array<vec4<f32>, CHUNK * COL_THREADS>;
// A slice of `removed`, [CHUNK][STRIDE]; a slice of keys, [ROWS][STRIDE], in vectors of four tokens; or sums of a token,
// [ROW_THREADS][COL_THREADS].
var<workgroup> wg_slice: array<vec4<f32>, max(LINES * STRIDE, INVOCATIONS)>;
var<workgroup> wg_range: vec4<u32>; // the first two: the segments that are walked, without the last
var<workgroup> wg_mark: vec4<u32>; // the first: whether the chunk is marked

var<private> state: array<vec4<f32>, STATE_ROWS>;
var<private> written: array<vec4<f32>, EACH>;

fn publish_state(row_thread: u32, col_thread: u32) {
    for (var r = 0u; r < STATE_ROWS; r++) {
        wg_state[(row_thread + ROW_THREADS * r) * COL_THREADS + col_thread] = state[r];
    }
}

fn load_page(base: u32, e: u32, row_thread: u32) {
    for (var r = 0u; r < STATE_ROWS; r++) {
        let d = row_thread + ROW_THREADS * r;
        count_load(select(0u, four_of(e, params.dim_v), d < params.rows));
        let row = stored_row(base + min(d, params.rows - 1u) * params.dim_v, e);
        state[r] = select(vec4<f32>(0.0), row, d < params.rows);
    }
}

fn store_state(base: u32, e: u32, row_thread: u32) {
    for (var r = 0u; r < STATE_ROWS; r++) {
        let d = row_thread + ROW_THREADS * r;
        if (d < params.rows) {
            count_store(four_of(e, params.dim_v));
            put_row(base + d * params.dim_v, e, state[r]);
        }
    }
}

// Four dimensions of the key of token n, from dimension 4 i on; zero past the head dimension. Tokens past the end repeat the last
// one, and write zero.
fn key_four(p: Place, n: u32, end: u32, i: u32) -> vec4<f32> {
    count_load(select(0u, group_loads(i), n < end));
    let key = load_key(p, min(n, end - 1u), i);
    if (WIDTH == ROWS) {
        return key;
    }
    return select(vec4<f32>(0.0), key, in_group(i));
}

// Subtracts the products of `removed` with the state.
fn subtract_removed(start: u32, row_thread: u32, col_thread: u32, invocation: u32) {
    for (var slice = 0u; slice < (REMOVED4 + SLICE4 - 1u) / SLICE4; slice++) {
        var fetched: array<vec4<f32>, REMOVED_TURNS>;
        for (var turn = 0u; turn < REMOVED_TURNS; turn++) {
            let t = (invocation + turn * INVOCATIONS) / SLICE4;
            let i = slice * SLICE4 + invocation % SLICE4;
            count_load(select(0u, 4u, i < REMOVED4));
            fetched[turn] = solved[start + t * SOLVED4 + KEPT4 + min(i, REMOVED4 - 1u)];
            if (REMOVED4 % SLICE4 != 0u) {
                fetched[turn] = select(vec4<f32>(0.0), fetched[turn], i < REMOVED4);
            }
        }
        workgroupBarrier();
        for (var turn = 0u; turn < REMOVED_TURNS; turn++) {
            let i = invocation + turn * INVOCATIONS;
            wg_slice[i / SLICE4 * STRIDE + i % SLICE4] = fetched[turn];
        }
        workgroupBarrier();
        for (var c = 0u; c < SLICE4; c++) {
            let first = 4u * (slice * SLICE4 + c);
            var rows: array<vec4<f32>, 4>;
            for (var d = 0u; d < 4u; d++) {
                rows[d] = wg_state[(first + d) * COL_THREADS + col_thread];
            }
            for (var i = 0u; i < EACH; i++) {
                let removed = wg_slice[(row_thread + ROW_THREADS * i) * STRIDE + c];
                written[i] -= removed.x * rows[0];
                written[i] -= removed.y * rows[1];
                written[i] -= removed.z * rows[2];
                written[i] -= removed.w * rows[3];
            }
        }
    }
}

// Adds the products of the keys of a chunk with what its tokens write.
fn add_written(p: Place, first: u32, end: u32, row_thread: u32, col_thread: u32, invocation: u32) {
    for (var slice = 0u; slice < CHUNK / 4u / SLICE4; slice++) {
        // Four tokens' keys in four dimensions, exchanged. Invocations take turns.
        let own = invocation / KEY_ITEMS == slice % KEY_TURNS;
        let four = invocation % KEY_ITEMS % (ROWS / 4u);
        let group = invocation % KEY_ITEMS / (ROWS / 4u);
        var keys: array<vec4<f32>, 4>;
        if (own) {
            let n = first + 4u * (slice * SLICE4 + group);
            keys[0] = key_four(p, n, end, four);
            keys[1] = key_four(p, n + 1u, end, four);
            keys[2] = key_four(p, n + 2u, end, four);
            keys[3] = key_four(p, n + 3u, end, four);
        }
        workgroupBarrier();
        if (own) {
            let home = 4u * four * STRIDE + group;
            wg_slice[home] = vec4<f32>(keys[0].x, keys[1].x, keys[2].x, keys[3].x);
            wg_slice[home + STRIDE] = vec4<f32>(keys[0].y, keys[1].y, keys[2].y, keys[3].y);
            wg_slice[home + 2u * STRIDE] = vec4<f32>(keys[0].z, keys[1].z, keys[2].z, keys[3].z);
            wg_slice[home + 3u * STRIDE] = vec4<f32>(keys[0].w, keys[1].w, keys[2].w, keys[3].w);
        }
        workgroupBarrier();
        for (var c = 0u; c < SLICE4; c++) {
            let t = 4u * (slice * SLICE4 + c);
            var tokens: array<vec4<f32>, 4>;
            for (var i = 0u; i < 4u; i++) {
                tokens[i] = wg_written[(t + i) * COL_THREADS + col_thread];
            }
            for (var r = 0u; r < STATE_ROWS; r++) {
                let k = wg_slice[(row_thread + ROW_THREADS * r) * STRIDE + c];
                state[r] += k.x * tokens[0];
                state[r] += k.y * tokens[1];
                state[r] += k.z * tokens[2];
                state[r] += k.w * tokens[3];
            }
        }
    }
}

fn strength(p: Place, n: u32) -> f32 {
    count_load(1u);
    return f32(beta[head_start(params.beta, p.b, p.g) + n * params.beta.token]);
}

// Takes a chunk token by token.
fn take_tokens(p: Place, first: u32, end: u32, start: u32, e: u32, row_thread: u32, col_thread: u32) {
    for (var t = 0u; t < CHUNK; t++) {
        let n = min(first + t, end - 1u);
        let there = first + t < end;
        let left = vec4<f32>(decay_of(select(0.0, log_of_token(t), there)));
        var sum = vec4<f32>(0.0);
        var keys: array<f32, STATE_ROWS>;
        for (var r = 0u; r < STATE_ROWS; r++) {
            let d = row_thread + ROW_THREADS * r;
            keys[r] = select(0.0, load_key(p, n, min(d, params.dim_k - 1u) / 4u)[d % 4u], d < params.dim_k && there);
            state[r] = left_of(left, state[r]);
            sum += keys[r] * state[r];
        }
        wg_slice[row_thread * COL_THREADS + col_thread] = sum;
        workgroupBarrier();
        var answer = vec4<f32>(0.0);
        for (var i = 0u; i < ROW_THREADS; i++) {
            answer += wg_slice[i * COL_THREADS + col_thread];
        }
        workgroupBarrier();
        let value = load_v(head_start(params.v, p.b, p.g) + n * params.v.token, e);
        let u = strength(p, n) * (value - answer);
        for (var r = 0u; r < STATE_ROWS; r++) {
            state[r] += keys[r] * u;
        }
        if (there && row_thread == 0u && e < params.dim_v) {
            solved[start + t * SOLVED4 + e / 4u] = u;
        }
    }
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn linear_delta_scan(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    let unit = index / params.col_splits;
    let own = segments_of(unit);
    let begin = max(own.first, params.first);
    let stop = max(begin, min(own.first + own.count, params.end));
    if (invocation == 0u) {
        // Loops with barriers follow these.
        wg_range = vec4<u32>(begin, stop, 0u, 0u);
    }
    let range = workgroupUniformLoad(&wg_range);
    if (range.x >= range.y) {
        return;
    }
    var p: Place;
    p.split = index % params.col_splits;
    p.kv = own.kv;
    p.b = own.kv / params.kv_heads;
    p.g = own.kv % params.kv_heads;
    p.group = params.heads / params.kv_heads;
    p.key_head = key_head(p.g);
    let e = (p.split * COL_THREADS + col_thread) * 4u;
    let sequence = sequence_start(own.sequence);
    let states = own.kv * params.stored_segments;
    let page = (states + own.sequence) * params.segment_stride;
    if (INIT == 1u || begin > own.first) {
        load_page(page, e, row_thread);
    } else {
        for (var r = 0u; r < STATE_ROWS; r++) {
            state[r] = vec4<f32>(0.0);
        }
    }
    publish_state(row_thread, col_thread);
    for (var segment = range.x; segment < range.y; segment++) {
        p.segment = segment;
        let first = sequence + (segment - own.first) * params.segment;
        let end = sequence + min((segment + 1u - own.first) * params.segment, own.tokens);
        p.span = Span(own.sequence, 0u, own.tokens, first, end);
        let start = chunk_start(p);
        store_state((states + params.sequences + segment - params.first) * params.segment_stride, e, row_thread);
        workgroupBarrier();
        if (invocation == 0u) {
            count_load(1u);
            wg_mark = vec4<u32>(u32(solved[start + MARK_AT].y));
        }
        if (workgroupUniformLoad(&wg_mark).x != 0u) {
            load_logs(p, first, end, invocation);
            take_tokens(p, first, end, start, e, row_thread, col_thread);
        } else {
            for (var i = 0u; i < EACH; i++) {
                let t = row_thread + ROW_THREADS * i;
                count_load(select(0u, 4u, e / 4u < KEPT4));
                written[i] = solved[start + t * SOLVED4 + min(e / 4u, KEPT4 - 1u)];
            }
            subtract_removed(start, row_thread, col_thread, invocation);
            for (var i = 0u; i < EACH; i++) {
                let t = row_thread + ROW_THREADS * i;
                if (e / 4u < KEPT4) {
                    count_store(4u);
                    solved[start + t * SOLVED4 + e / 4u] = written[i];
                }
                count_load(1u);
                wg_written[t * COL_THREADS + col_thread] = solved[start + LEFT_AT + t / 4u][t % 4u] * written[i];
            }
            count_load(1u);
            // Thousands of chunks multiply a state by factors next to 1: rounded there, all would err the same way.
            let left = vec4<f32>(decay_of(solved[start + MARK_AT].x));
            for (var r = 0u; r < STATE_ROWS; r++) {
                state[r] = left_of(left, state[r]);
            }
            add_written(p, first, end, row_thread, col_thread, invocation);
        }
        workgroupBarrier();
        publish_state(row_thread, col_thread);
    }
    if (STORE == 1u) {
        store_state(page, e, row_thread);
    }
}
