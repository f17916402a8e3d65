// Processes some tokens for a tile of channels. Lane l of channel c is invocation l CHANNELS + c; it holds 4 ROWS4 states of
// the channel, starting at 4 ROWS4 l. Tokens are loaded into workgroup memory in tiles; loading computes steps and decays.
//
// Prelude constants: CHANNELS, LANES, ROWS4, TILE.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B C N
@group(0) @binding(DT_BINDING) var<storage, read> dt: array<Elem>; // B C N
@group(0) @binding(B_BINDING) var<storage, read> b: array<Elem>; // B G S N
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed: a or a_log C S; d C; dt_bias C

override SOFTPLUS: u32 = 1u; // 1: apply softplus to steps
override BIASED: u32 = 0u;   // 1: there is a dt_bias

const INVOCATIONS: u32 = CHANNELS * LANES;
const STATES4: u32 = LANES * ROWS4;
// One column of padding per row, so that rows start in different banks.
const STRIDE: u32 = TILE + 1u;

var<workgroup> wg_x: array<f32, CHANNELS * STRIDE>;
var<workgroup> wg_dt: array<f32, CHANNELS * STRIDE>;
var<workgroup> wg_b: array<vec4<f32>, TILE * STATES4>;
var<workgroup> wg_dt_bias: array<f32, CHANNELS>;

var<private> h: array<vec4<f32>, ROWS4>;
var<private> rates: array<vec4<f32>, ROWS4>;

// A decoded workgroup index; the segment varies fastest.
struct Place {
    unit: u32,    // batch * G + group
    segment: u32,
    row: u32,     // batch * C + first channel
    count: u32,   // number of channels
}

fn place(index: u32) -> Place {
    var p: Place;
    p.segment = index % params.segments;
    let first = index / params.segments % params.tiles * CHANNELS;
    p.unit = index / params.segments / params.tiles;
    let channels = params.channels / params.groups;
    p.row = p.unit * channels + first;
    p.count = min(CHANNELS, channels - first);
    return p;
}

// State s of a channel, if it exists.
fn load_rate(p: Place, c: u32, s: u32) -> f32 {
    if (c >= p.count || s >= params.states) {
        return 0.0;
    }
    count_load(1u);
    return rate(weights[(p.row + c) % params.channels * params.states + s]);
}

fn load_b(p: Place, s: u32, n: u32, end: u32) -> f32 {
    if (s >= params.states || n >= end) {
        return 0.0;
    }
    count_load(1u);
    return f32(b[(p.unit * params.states + s) * params.length + n - params.base_b]);
}

// First state of the r-th group of four of an invocation.
fn first_state(invocation: u32, r: u32) -> u32 {
    return 4u * (invocation / CHANNELS * ROWS4 + r);
}

fn begin(p: Place, invocation: u32) {
    let c = invocation % CHANNELS;
    for (var r = 0u; r < ROWS4; r++) {
        let s = first_state(invocation, r);
        rates[r] =
            vec4<f32>(load_rate(p, c, s), load_rate(p, c, s + 1u), load_rate(p, c, s + 2u), load_rate(p, c, s + 3u));
        h[r] = vec4<f32>(0.0);
    }
    if (invocation < CHANNELS) {
        var bias = 0.0;
        if (BIASED == 1u && c < p.count) {
            count_load(1u);
            bias = weights[params.dt_bias + (p.row + c) % params.channels];
        }
        wg_dt_bias[c] = bias;
    }
}

// Loads tokens from `first` on. Tokens from `end` on get steps of zero.
fn load_tokens(p: Place, first: u32, end: u32, invocation: u32) {
    for (var i = invocation; i < CHANNELS * TILE; i += INVOCATIONS) {
        let c = i / TILE;
        let n = first + i % TILE;
        var input = 0.0;
        var step = 0.0;
        if (c < p.count && n < end) {
            let at = (p.row + c) * params.length + n - params.base;
            count_load(2u);
            input = f32(x[at]);
            step = f32(dt[at]) + wg_dt_bias[c];
            if (SOFTPLUS == 1u) {
                step = softplus(step);
            }
        }
        wg_x[c * STRIDE + i % TILE] = input;
        wg_dt[c * STRIDE + i % TILE] = step;
    }
    for (var i = invocation; i < TILE * STATES4; i += INVOCATIONS) {
        let s = i / TILE * 4u;
        let n = first + i % TILE;
        wg_b[i % TILE * STATES4 + i / TILE] =
            vec4<f32>(load_b(p, s, n, end), load_b(p, s + 1u, n, end), load_b(p, s + 2u, n, end), load_b(p, s + 3u, n, end));
    }
}

// Processes token t of the tile; returns its step.
fn advance(invocation: u32, t: u32) -> f32 {
    let at = invocation % CHANNELS * STRIDE + t;
    let step = wg_dt[at];
    let input = step * wg_x[at];
    let first = t * STATES4 + invocation / CHANNELS * ROWS4;
    for (var r = 0u; r < ROWS4; r++) {
        h[r] = power2(step * rates[r]) * h[r] + input * wg_b[first + r];
    }
    return step;
}
