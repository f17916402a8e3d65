// Declarations that all kernels of scores share: the keys that a row sees, the tensors that they read besides q, k and v, and
// where maxima and sums are stored. Needs rows of q.
@group(0) @binding(Q_TAIL_BINDING) var<storage, read> q_tail: array<f32>; // B H T D; a dummy if there is none
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // a dummy if there are none

override CAUSAL: u32 = 1u; // 1: query i sees only keys up to its own
override KQ_PRE: u32 = 1u; // 1: a convolution precedes the softmax
override CARRY: u32 = 0u;  // 1: rows before the first query are in q_tail

// At most any score. A row that has seen no key has this as its maximum.
const LOWEST: f32 = -3.4028234e38;

// One past the last key that a row sees. Negative rows are those of q_tail.
fn keys_end(row: i32) -> i32 {
    var end = i32(params.keys);
    if (CAUSAL != 0u) {
        end = clamp(row + 1 + params.shift, 0, i32(params.keys));
    }
    return select(end, 0, (row < -i32(params.tail)) | (row >= i32(params.queries)));
}

// Offset of a row's maximum in stats; its sum follows. If the keys are split, there is such a pair for each split.
fn stat_at(batch: u32, head: u32, row: i32) -> u32 {
    let rows = params.queries + params.rows_before;
    return ((batch * params.heads + head) * rows + u32(row + i32(params.rows_before))) * params.splits * 2u;
}

// Loads four dimensions of a row of q or q_tail. Rows outside both repeat the outermost.
fn load_row(batch: u32, head: u32, row: i32, d: u32) -> vec4<f32> {
    count_load(select(0u, four_of(d, params.dim_k), (row >= -i32(params.tail)) & (row < i32(params.queries))));
    if (CARRY != 0u && row < 0) {
        return load_tail((batch * params.heads + head) * params.tail + u32(max(row + i32(params.tail), 0)), d);
    }
    return load_q(head_start(params.q, batch, head) + u32(clamp(row, 0, i32(params.queries) - 1)) * params.q.token, d);
}

fn load_tail(row: u32, d: u32) -> vec4<f32> {
    let at = row * params.dim_k;
    let last = params.dim_k - 1u;
    return vec4<f32>(
        q_tail[at + min(d, last)],
        q_tail[at + min(d + 1u, last)],
        q_tail[at + min(d + 2u, last)],
        q_tail[at + min(d + 3u, last)],
    );
}

// The key head of a head.
fn key_head(head: u32) -> u32 {
    return head / (params.heads / params.kv_heads);
}

// Loads four dimensions of a key, zeros past the last dimension. Keys outside the sequence repeat the outermost.
fn load_key(batch: u32, head: u32, key: i32, d: u32) -> vec4<f32> {
    count_load(select(0u, four_of(d, params.dim_k), (key >= 0) & (key < i32(params.keys))));
    let own = u32(clamp(key, 0, i32(params.keys) - 1));
    let four = load_k(head_start(params.k, batch, key_head(head)) + own * params.k.token, d);
    return select(vec4<f32>(0.0), four, within(d, params.dim_k));
}

// Four taps of a kernel [cq][ck] that starts at `at`: of queries 4 (i % fours) .. and key i / fours, zeros past the last
// query.
fn four_taps(at: u32, queries: u32, keys: u32, fours: u32, i: u32) -> vec4<f32> {
    var four: vec4<f32>;
    for (var c = 0u; c < 4u; c++) {
        let t = i % fours * 4u + c;
        if (t < queries) {
            count_load(1u);
            four[c] = weights[at + t * keys + i / fours];
        }
    }
    return four;
}
