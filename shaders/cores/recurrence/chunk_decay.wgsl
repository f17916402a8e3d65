// Decays of chunks of tokens by one factor per head, as powers of two of differences of sums of logarithms. Tokens are numbered
// from the first one of the segment.
//
// Rounded sums would make a difference of two large ones inexact. So there are two sums: one rounded, and one in units of
// 2^-26 that wraps around, whose differences are exact up to 2^5, where a decay is below 1e-9 and the rounded sum is enough.
//
// Takes the place of decay_tokens.wgsl. The operator defines decay_token(p, n) and SCALED as there.
const UNIT: f32 = 67108864.0;
const EXACT: f32 = 31.0;
const LOG2_E: f32 = 1.442695;
const GROUP: u32 = 8u; // tokens that one invocation sums

// Sums up to a token, of its group and then of the segment.
var<workgroup> wg_sum: array<f32, TOKENS>;
var<workgroup> wg_units: array<i32, TOKENS>;
var<workgroup> wg_scale: array<f32, select(4u, TOKENS, SCALED == 1u)>;

// Loads the log decays of tokens first .. end, where a segment begins. Tokens past the end have no decay.
fn load_logs(p: Place, first: u32, end: u32, invocation: u32) {
    for (var t = invocation; t < TOKENS; t += INVOCATIONS) {
        var token = vec2<f32>(0.0);
        if (first + t < end) {
            token = decay_token(p, first + t);
        }
        // Beyond 300 a factor has overflowed or vanished, and sums of infinities are no numbers.
        let log = token.x * LOG2_E;
        wg_sum[t] = select(log, clamp(log, -300.0, 300.0), abs(log) > 300.0);
        if (SCALED == 1u) {
            wg_scale[t] = token.y;
        }
    }
    workgroupBarrier();
    if (invocation < TOKENS / GROUP) {
        var sum = 0.0;
        var units = 0i;
        for (var i = 0u; i < GROUP; i++) {
            let t = invocation * GROUP + i;
            let log = wg_sum[t];
            sum += log;
            units += i32(round(clamp(log, -EXACT, EXACT) * UNIT));
            wg_sum[t] = sum;
            wg_units[t] = units;
        }
    }
    workgroupBarrier();
    var sums: array<f32, TURNS>;
    var units: array<i32, TURNS>;
    for (var turn = 0u; turn < TURNS; turn++) {
        let group = (invocation + turn * INVOCATIONS) / GROUP;
        sums[turn] = 0.0;
        units[turn] = 0i;
        for (var g = 0u; g + 1u < TOKENS / GROUP; g++) {
            let last = g * GROUP + GROUP - 1u;
            sums[turn] += select(0.0, wg_sum[last], g < group);
            units[turn] += select(0i, wg_units[last], g < group);
        }
    }
    workgroupBarrier();
    for (var turn = 0u; turn < TURNS; turn++) {
        let t = invocation + turn * INVOCATIONS;
        if (t < TOKENS) {
            wg_sum[t] += sums[turn];
            wg_units[t] += units[turn];
        }
    }
    workgroupBarrier();
}

const TURNS: u32 = (TOKENS + INVOCATIONS - 1u) / INVOCATIONS;

// What is left at token t of the state before the segment.
fn left_since_start(t: u32) -> f32 {
    return exp2(wg_sum[t]);
}

// The same of what token s <= t writes, as a logarithm.
fn log2_between(t: u32, s: u32) -> f32 {
    let rounded = wg_sum[t] - wg_sum[s];
    let exact = f32(wg_units[t] - wg_units[s]) / UNIT;
    return select(rounded, exact, abs(rounded) < EXACT - 1.0);
}

fn left_between(t: u32, s: u32) -> f32 {
    return exp2(log2_between(t, s));
}

// The logarithm of what is left at token t of the state before the segment.
fn log_since_start(t: u32) -> f32 {
    return wg_sum[t] / LOG2_E;
}

// The logarithm of the decay of token t.
fn log_of_token(t: u32) -> f32 {
    return select(log2_between(t, max(t, 1u) - 1u), wg_sum[0], t == 0u) / LOG2_E;
}

// A factor of the values of token t.
fn scale_of(t: u32) -> f32 {
    if (SCALED == 0u) {
        return 1.0;
    }
    return wg_scale[t];
}
