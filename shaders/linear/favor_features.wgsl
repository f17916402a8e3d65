// performer: features F^-1/2 e^(omega x - |x|^2 / 2) of the tile just loaded, where x is the loaded vector over D^(1/4).
//
// These features underflow f32: for a vector of norm 30 they are about e^-400. We therefore store a query's features relative
// to its largest one, and the state relative to e^running_max, where that maximum is of the log features of the
// keys so far and decays with the state. A running maximum keeps earlier outputs independent of later tokens. Each token
// multiplies the stored state by e^(old running maximum + g - new running maximum), so the recurrence is a gated one.
//
// Prelude constants: those of projected.wgsl. A variant brings log_of(p, n), the log decay g of a token.
const LANES: u32 = 8u;

var<workgroup> wg_tops: array<f32, VECTORS * LANES>;
// Exponents are relative to these: the running maximum after a key, the largest log feature of a query.
var<workgroup> wg_shift: array<f32, VECTORS>;
var<workgroup> wg_log: array<f32, TILE>;
var<workgroup> wg_decay: array<f32, TILE>;
var<workgroup> wg_running_max: f32;
var<workgroup> wg_tokens: u32; // tokens in the tile that are not padding
var<workgroup> wg_first: u32; // first token of the tile within its segment

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
        wg_tokens = min(TILE, end - first);
        wg_first = (first - p.span.start) % params.segment;
    }
}

fn decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(wg_decay[t]);
}

fn log_decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(wg_log[t]);
}

fn value_scale(t: u32) -> f32 {
    return 1.0;
}

// Log features of four rows, from row 4 i on; NOTHING past the end.
fn log_features(vector: u32, i: u32, g: u32) -> vec4<f32> {
    var square = 0.0;
    for (var d = 0u; d < (params.dim_k + 3u) / 4u; d++) {
        let x = wg_u[vector * DIM_K4 + d];
        square += dot(x, x);
    }
    let logs = own.map.x * project(vector, i, g) - 0.5 * own.map.y * square;
    let rows = 4u * i + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(NOTHING), logs, rows < vec4<u32>(params.rows));
}

fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {
    let first = select(TILE, 0u, keys);
    let count = select(TILE, VECTORS, queries) - first;
    workgroupBarrier();
    // Neighbouring invocations share rows of omega.
    for (var i = invocation; i < count * DIM4; i += INVOCATIONS) {
        let vector = first + i % count;
        wg_phi[vector * DIM4 + i / count] = log_features(vector, i / count, p.key_head);
    }
    workgroupBarrier();
    for (var i = invocation; i < count * LANES; i += INVOCATIONS) {
        let vector = first + i / LANES;
        var top = vec4<f32>(NOTHING);
        for (var row = i % LANES; row < DIM4; row += LANES) {
            top = max(top, wg_phi[vector * DIM4 + row]);
        }
        wg_tops[vector * LANES + i % LANES] = max(max(top.x, top.y), max(top.z, top.w));
    }
    workgroupBarrier();
    for (var i = invocation; i < count; i += INVOCATIONS) {
        var top = NOTHING;
        for (var lane = 0u; lane < LANES; lane++) {
            top = max(top, wg_tops[(first + i) * LANES + lane]);
        }
        wg_shift[first + i] = top;
    }
    workgroupBarrier();
    if (invocation == 0u) {
        for (var t = 0u; t < TILE; t++) {
            if (keys) {
                let top = select(NOTHING, wg_shift[t], t < wg_tokens);
                let running_max = risen(wg_running_max, wg_log[t], top);
                wg_decay[t] = (wg_running_max - running_max) + wg_log[t];
                wg_running_max = running_max;
            }
            wg_shift[t] = wg_running_max;
        }
    }
    workgroupBarrier();
    for (var i = invocation; i < count * DIM4; i += INVOCATIONS) {
        let vector = first + i / DIM4;
        let there = vector >= TILE || vector < wg_tokens;
        let at = first * DIM4 + i;
        wg_phi[at] = select(vec4<f32>(0.0), own.map.z * exp_down(wg_phi[at] - wg_shift[vector]), there);
    }
    if (keys) {
        for (var i = invocation; i < TILE; i += INVOCATIONS) {
            wg_decay[i] = select(decay_factor(wg_decay[i], wg_first + i), 1.0 + wg_decay[i], wg_decay[i] > 0.0);
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
        wg_running_max = NOTHING;
        if (stored) {
            count_load(1u);
            wg_running_max = segment_at(running_max_at(p.kv, segment) + 1u);
        }
    }
}

fn end_walk(p: Place, store: bool, invocation: u32) {
    put_segment(running_max_at(p.kv, p.segment), wg_running_max, store && p.split == 0u && invocation == 0u);
}
