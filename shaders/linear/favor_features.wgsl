// performer: features F^-1/2 e^(omega x - |x|^2 / 2) of the tile just loaded, whose logarithms are stored (product_favor.wgsl).
//
// These features underflow f32: for a vector of norm 30 they are about e^-400. We therefore store a query's features relative
// to its largest one, and the state relative to e^running_max, where that maximum is of the log features of the
// keys so far and decays with the state. A running maximum keeps earlier outputs independent of later tokens. Each token
// multiplies the stored state by e^(old running maximum + g - new running maximum), so the recurrence is a gated one.
//
// Prelude constants: those of stored.wgsl. A variant brings log_of(p, n), the log decay g of a token.

// The largest log feature of each vector.
var<workgroup> wg_top: array<f32, (VECTORS + 3u) / 4u * 4u>;
// Exponents are relative to these: the running maximum after a key, the largest log feature of a query. Outputs of the tile
// before still read them while the next tile is loaded.
var<workgroup> wg_shift: array<f32, (VECTORS + 3u) / 4u * 4u>;
var<workgroup> wg_log: array<f32, (TILE + 3u) / 4u * 4u>;
var<workgroup> wg_decay: array<f32, (TILE + 3u) / 4u * 4u>;
// The first: the running maximum.
var<workgroup> wg_running_max: array<f32, 4>;
// Tokens in the tile that are not padding, and the first token of the tile within its segment.
var<workgroup> wg_tokens: array<u32, 4>;

fn load_decays(p: Place, first: u32, end: u32, invocation: u32) {}

fn load_decay(p: Place, first: u32, end: u32, invocation: u32) {
    for (var i = invocation; i < TILE; i += INVOCATIONS) {
        var log = 0.0;
        if (first + i < end) {
            log = log_of(p, first + i);
        }
        wg_log[i] = log;
    }
    if (invocation == 0u) {
        wg_tokens[0] = min(TILE, end - first);
        wg_tokens[1] = (first - p.span.start) % params.segment;
    }
}

fn decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(wg_decay[t]);
}

fn log_decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(wg_log[t]);
}

fn keep(vector: u32, i: u32, value: vec4<f32>) {
    if (i >= MAPPED4) {
        wg_top[vector] = value.x;
        return;
    }
    wg_phi[vector * MAPPED4 + i] = value;
}

fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {
    let first = select(TILE, 0u, keys);
    let count = select(TILE, VECTORS, queries) - first;
    workgroupBarrier();
    if (invocation == 0u) {
        for (var t = 0u; t < TILE; t++) {
            if (keys) {
                let top = select(NOTHING, wg_top[t], t < wg_tokens[0]);
                let running_max = risen(wg_running_max[0], wg_log[t], top);
                wg_decay[t] = (wg_running_max[0] - running_max) + wg_log[t];
                wg_running_max[0] = running_max;
            }
            wg_shift[t] = wg_running_max[0];
        }
    }
    for (var i = max(first, TILE) + invocation; i < first + count; i += INVOCATIONS) {
        wg_shift[i] = wg_top[i];
    }
    workgroupBarrier();
    for (var i = invocation; i < count * MAPPED4; i += INVOCATIONS) {
        let vector = first + i / MAPPED4;
        let there = vector >= TILE || vector < wg_tokens[0];
        let at = first * MAPPED4 + i;
        wg_phi[at] = select(vec4<f32>(0.0), own.map.z * exp_down(wg_phi[at] - wg_shift[vector]), there);
    }
    if (keys) {
        for (var i = invocation; i < TILE; i += INVOCATIONS) {
            wg_decay[i] = select(decay_factor(wg_decay[i], wg_tokens[1] + i), 1.0 + wg_decay[i], wg_decay[i] > 0.0);
        }
    }
}

// Offset of the running maximum after a segment's tokens: it follows the log decay, and is followed by the running
// maximum before them.
fn running_max_at(kv: u32, segment: u32) -> u32 {
    return (kv * params.stored_segments + segment) * params.segment_stride + params.state_len + 1u;
}

fn begin_walk(p: Place, segment: u32, stored: bool, invocation: u32) {
    if (invocation == 0u) {
        wg_running_max[0] = NOTHING;
        if (stored) {
            count_load(1u);
            wg_running_max[0] = segment_at(running_max_at(p.kv, segment) + 1u);
        }
    }
}

fn end_walk(p: Place, store: bool, invocation: u32) {
    put_segment(running_max_at(p.kv, p.segment), wg_running_max[0], store && p.split == 0u && invocation == 0u);
}
