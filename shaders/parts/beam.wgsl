// The exact level-wise beam over f32 prefix sums: the K largest sums of one logit a digit, digit 0 first and the least
// significant, of equal sums the smaller address. Each vector of logits has LANES invocations of the workgroup.
//
// Consts of the prelude: DIGITS U, CHOICES P, TOPK K; LANES, a power of two, at least 2 K and U; VECTORS of a
// workgroup; GROUP, a power of two, lanes of a digit where its shares are summed; CACHED, whether the logits of all
// vectors stay in workgroup memory, of CACHE floats then. Who includes it defines fetch_logit(vector, i).

const INVOCATIONS: u32 = LANES * VECTORS;
const LEAST: f32 = 1.17549435e-38;
var<workgroup> wg_logits: array<f32, CACHE>;
var<workgroup> wg_entries: array<vec2<u32>, INVOCATIONS>;   // candidates: order of the sum, address
var<workgroup> wg_kept: array<vec2<u32>, VECTORS * TOPK>;   // the best of the digits so far, the best first
var<workgroup> wg_tops: array<f32, INVOCATIONS>;            // largest logits of a digit, of each lane of its group
var<workgroup> wg_sums: array<f32, INVOCATIONS>;            // and their sums of exponentials

// Floats in the order of their values: -0 as 0, NaN below everything. Bits decide, since a compiler may assume that
// there is no NaN.
fn order_of(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0u;
    }
    if (bits == 0x80000000u) {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn sum_of(order: u32) -> f32 {
    return bitcast<f32>(select(~order, order & 0x7fffffffu, (order >> 31u) == 1u));
}

fn logit(vector: u32, i: u32) -> f32 {
    if (CACHED == 1u) {
        return wg_logits[vector * DIGITS * CHOICES + i];
    }
    return fetch_logit(vector, i);
}

// Leaves the best in wg_kept, the best first. Barriers before and behind; all invocations take part.
fn beam(invocation: u32) {
    let vector = invocation / LANES;
    let lane = invocation % LANES;
    let base = vector * LANES;
    workgroupBarrier();
    if (CACHED == 1u) {
        for (var i = invocation; i < VECTORS * DIGITS * CHOICES; i += INVOCATIONS) {
            wg_logits[i] = fetch_logit(i / (DIGITS * CHOICES), i % (DIGITS * CHOICES));
        }
    }
    if (lane == 0u) {
        wg_kept[vector * TOPK] = vec2<u32>(order_of(0.0), 0u);
    }
    workgroupBarrier();
    var kept = 1u;
    var stride = 1u;
    for (var u = 0u; u < DIGITS; u++) {
        let count = kept * CHOICES;
        var held = 0u;
        // As many candidates at a time as there are lanes beside the best of those before.
        for (var next = 0u; next < count;) {
            let all = min(LANES, held + count - next);
            if (lane >= held && lane < all) {
                let candidate = next + lane - held;
                let before = wg_kept[vector * TOPK + candidate % kept];
                let j = candidate / kept;
                let sum = sum_of(before.x) + logit(vector, u * CHOICES + j);
                wg_entries[base + lane] = vec2<u32>(order_of(sum), before.y + j * stride);
            }
            workgroupBarrier();
            var mine = vec2<u32>(0u);
            var rank = TOPK;
            if (lane < all) {
                mine = wg_entries[base + lane];
                rank = 0u;
                for (var i = 0u; i < all; i++) {
                    let other = wg_entries[base + i];
                    rank += u32(other.x > mine.x || (other.x == mine.x && other.y < mine.y));
                }
            }
            workgroupBarrier();
            if (rank < TOPK) {
                wg_entries[base + rank] = mine;
            }
            workgroupBarrier();
            next += all - held;
            held = min(all, TOPK);
        }
        if (lane < held) {
            wg_kept[vector * TOPK + lane] = wg_entries[base + lane];
        }
        workgroupBarrier();
        kept = held;
        stride *= CHOICES;
    }
}

// The largest logit of a digit, and the sum of exponentials beside it: after sum_shares.
fn digit_top(vector: u32, u: u32) -> f32 {
    var top = wg_tops[vector * LANES + u * GROUP];
    for (var i = 1u; i < GROUP; i++) {
        top = max(top, wg_tops[vector * LANES + u * GROUP + i]);
    }
    return top;
}

fn digit_sum(vector: u32, u: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < GROUP; i++) {
        sum += wg_sums[vector * LANES + u * GROUP + i];
    }
    return sum;
}

// Makes ready what weight_of needs. Barrier behind.
fn sum_shares(invocation: u32, tau: f32) {
    let vector = invocation / LANES;
    let u = invocation % LANES / GROUP;
    let first = u * CHOICES + invocation % GROUP;
    if (u < DIGITS) {
        var top = logit(vector, first);
        for (var i = first + GROUP; i < (u + 1u) * CHOICES; i += GROUP) {
            top = max(top, logit(vector, i));
        }
        wg_tops[invocation] = top;
    }
    workgroupBarrier();
    if (u < DIGITS) {
        let top = digit_top(vector, u);
        var sum = 0.0;
        for (var i = first; i < (u + 1u) * CHOICES; i += GROUP) {
            sum += exp((logit(vector, i) - top) / tau);
        }
        wg_sums[invocation] = sum;
    }
    workgroupBarrier();
}

// The product of the softmaxes of an address' digits; zero where it underflows.
fn weight_of(vector: u32, address: u32, tau: f32) -> f32 {
    var rest = address;
    var below = 0.0;
    var shares = 1.0;
    for (var u = 0u; u < DIGITS; u++) {
        below += logit(vector, u * CHOICES + rest % CHOICES) - digit_top(vector, u);
        shares *= digit_sum(vector, u);
        rest /= CHOICES;
    }
    let weight = exp(below / tau) / shares;
    return select(weight, 0.0, weight < LEAST);
}
