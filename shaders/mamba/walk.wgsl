// Processes the tokens of a segment for a tile of channels. An invocation is a lane of a channel and holds 4 ROWS4 of its
// states; lane l of channel c is invocation l CHANNELS + c. Tokens go through workgroup memory in tiles of TILE, which is a
// multiple of four; those of the next tile are loaded while this one is processed. Tiles start at multiples of four, and
// tokens outside the segment change no state.
//
// Prelude constants: CHANNELS, LANES, ROWS4, TILE. Needs tokens.wgsl, lanes for rows of CHANNELS, loads of x, of b and of
// steps (dt_given.wgsl or dt_kept.wgsl), and keep_steps.wgsl or keep_none.wgsl.
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed: a or a_log C S; d C; dt_bias C; b C S; c C S

override CONSTANT_B: u32 = 0u; // 1: b is in the weights, one vector per channel for all tokens

const INVOCATIONS: u32 = CHANNELS * LANES;
const STATES4: u32 = LANES * ROWS4;
const QUADS: u32 = TILE / 4u; // groups of four tokens
// One vector of padding per row, so that rows start in different banks.
const STRIDE: u32 = QUADS + 1u;
// An invocation loads x, steps and z of so many groups of four tokens of a channel, and b and c of so many of a state.
const TURNS: u32 = (CHANNELS * QUADS + INVOCATIONS - 1u) / INVOCATIONS;
const STATE_TURNS: u32 = (4u * STATES4 * QUADS + INVOCATIONS - 1u) / INVOCATIONS;

// Uses of wg_space: steps, [CHANNELS][STRIDE]; steps times inputs; b, [TILE][STATES4]; c. After the tokens of a tile, the
// lanes' shares of the outputs, [LANES][CHANNELS][STRIDE].
const INPUTS_AT: u32 = CHANNELS * STRIDE;
const B_AT: u32 = 2u * CHANNELS * STRIDE;
const C_AT: u32 = B_AT + TILE * STATES4;
var<workgroup> wg_space: array<vec4<f32>, SPACE>;

var<private> h: array<vec4<f32>, ROWS4>;
var<private> rates: array<vec4<f32>, ROWS4>;
var<private> own_b: array<vec4<f32>, ROWS4>; // where b is constant
var<private> own_bias: array<f32, TURNS>;
// What this invocation loads of the next tile, and the inputs that it loaded of this one.
var<private> next_x: array<vec4<f32>, TURNS>;
var<private> next_steps: array<vec4<f32>, TURNS>;
var<private> next_b: array<vec4<f32>, STATE_TURNS>;
var<private> own_x: array<vec4<f32>, TURNS>;

// A decoded workgroup index; the segment varies fastest.
struct Place {
    unit: u32,    // batch * G + group
    segment: u32,
    row: u32,     // batch * C + first channel
    count: u32,   // number of channels
}

fn place(index: u32) -> Place {
    let first = index / params.segments % params.tiles * CHANNELS;
    let unit = index / params.segments / params.tiles;
    let channels = params.channels / params.groups;
    return Place(unit, index % params.segments, unit * channels + first, min(CHANNELS, channels - first));
}

// Four states of a channel of this workgroup, from the r-th group of four of a lane on, in a weight [C][S] from `at` on. Past
// the last, it repeats others.
fn load_weights(p: Place, at: u32, channel: u32, lane: u32, r: u32) -> vec4<f32> {
    let s = 4u * (lane * ROWS4 + r);
    let home = at + (p.row + min(channel, p.count - 1u)) % params.channels * params.states;
    count_load(select(0u, four_of(s, params.states), channel < p.count));
    let own = min(vec4<u32>(s, s + 1u, s + 2u, s + 3u), vec4<u32>(params.states - 1u));
    return vec4<f32>(weights[home + own.x], weights[home + own.y], weights[home + own.z], weights[home + own.w]);
}

// The channel and the first token, in a tile, of what this invocation loads in a turn.
fn channel_in(turn: u32, invocation: u32) -> u32 {
    return (invocation + INVOCATIONS * turn) / QUADS;
}

fn token_in(turn: u32, invocation: u32) -> u32 {
    return (invocation + INVOCATIONS * turn) % QUADS * 4u;
}

fn begin(p: Place, lane: u32, channel: u32, invocation: u32) {
    for (var r = 0u; r < ROWS4; r++) {
        let a = load_weights(p, 0u, channel, lane, r);
        rates[r] = vec4<f32>(rate(a.x), rate(a.y), rate(a.z), rate(a.w));
        if (CONSTANT_B == 1u) {
            own_b[r] = load_weights(p, params.b, channel, lane, r);
        }
        h[r] = vec4<f32>(0.0);
    }
    for (var turn = 0u; turn < TURNS; turn++) {
        let own = channel_in(turn, invocation);
        own_bias[turn] = bias_of((p.row + min(own, p.count - 1u)) % params.channels, own < p.count);
    }
}

// Loads this invocation's share of the tile of tokens from `first` on.
fn fetch(p: Place, segment: Segment, first: u32, invocation: u32) {
    for (var turn = 0u; turn < TURNS; turn++) {
        let channel = channel_in(turn, invocation);
        let row = p.row + min(channel, p.count - 1u);
        let n = first + token_in(turn, invocation);
        count_load(select(0u, 2u * count_of(inside(segment, n)), channel < p.count));
        next_x[turn] = load_x(row, n);
        next_steps[turn] = load_steps(row, n);
    }
    if (CONSTANT_B == 0u) {
        for (var turn = 0u; turn < STATE_TURNS; turn++) {
            let s = channel_in(turn, invocation);
            let n = first + token_in(turn, invocation);
            count_load(select(0u, count_of(inside(segment, n)), s < params.states));
            next_b[turn] = load_b(p.unit, min(s, params.states - 1u), n);
        }
    }
}

// Puts four tokens of a state, from token t of a tile on, where a lane finds the states of a token.
fn put_state(at: u32, s: u32, t: u32, values: vec4<f32>) {
    if (s < 4u * STATES4) {
        for (var i = 0u; i < 4u; i++) {
            wg_space[at + (t + i) * STATES4 + s / 4u][s % 4u] = values[i];
        }
    }
}

// Puts what was fetched into workgroup memory. Tokens outside the segment get zeros: they may belong to other sequences.
fn put(p: Place, segment: Segment, first: u32, invocation: u32) {
    for (var turn = 0u; turn < TURNS; turn++) {
        let channel = channel_in(turn, invocation);
        let n = first + token_in(turn, invocation);
        let used = inside(segment, n);
        let steps = select(vec4<f32>(0.0), steps_of(next_steps[turn], own_bias[turn]), used);
        own_x[turn] = select(vec4<f32>(0.0), next_x[turn], used);
        if (channel < CHANNELS) {
            let at = channel * STRIDE + token_in(turn, invocation) / 4u;
            wg_space[at] = steps;
            wg_space[INPUTS_AT + at] = steps * own_x[turn];
        }
        if (channel < p.count) {
            keep_steps(p.row + channel, n, steps, used);
        }
    }
    if (CONSTANT_B == 0u) {
        for (var turn = 0u; turn < STATE_TURNS; turn++) {
            let s = channel_in(turn, invocation);
            let t = token_in(turn, invocation);
            let used = inside(segment, first + t);
            put_state(B_AT, s, t, select(vec4<f32>(0.0), next_b[turn], used & vec4<bool>(s < params.states)));
        }
    }
}

// Processes one token of a lane, the one of this number in the tile.
fn advance(step: f32, input: f32, t: u32, lane: u32) {
    for (var r = 0u; r < ROWS4; r++) {
        var b = own_b[r];
        if (CONSTANT_B == 0u) {
            b = wg_space[B_AT + t * STATES4 + lane * ROWS4 + r];
        }
        h[r] = decays(step * rates[r]) * h[r] + input * b;
    }
}
