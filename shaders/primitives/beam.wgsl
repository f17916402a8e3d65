// Exact level-wise beam search over f32 prefix sums: the K largest sums of one logit per digit. Digit 0 comes first and is
// the least significant; ties go to the smaller address. LANES invocations of the workgroup process each vector of logits.
//
// Prelude constants: DIGITS U, CHOICES P, TOPK K; LANES, a power of two, at least 2 K and U; VECTORS per workgroup; GROUP, a
// power of two, the lanes that sum the exponentials of one digit; CACHED, 1 if the logits of all vectors stay in workgroup
// memory, and CACHE, their number. The kernel that includes this file defines fetch_logit(vector, i).

const INVOCATIONS: u32 = LANES * VECTORS;
const LEAST: f32 = 1.17549435e-38;
var<workgroup> wg_logits: array<f32, CACHE>;
var<workgroup> wg_entries: array<vec2<u32>, INVOCATIONS>;   // candidates: order of the sum, address
var<workgroup> wg_kept: array<vec2<u32>, VECTORS * TOPK>;   // the best prefixes so far, in descending order
var<workgroup> wg_tops: array<f32, INVOCATIONS>;            // maximum logits of a digit, one per lane of its group
var<workgroup> wg_sums: array<f32, INVOCATIONS>;            // sums of exponentials relative to the digit's maximum, likewise

// Maps floats to integers of the same order: -0 equals 0, NaN is below everything. It works on the bits, because compilers
// may assume that there is no NaN.
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

// Leaves the best addresses in wg_kept, in descending order. Starts and ends with a barrier; all invocations must call it.
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
        // Each round sorts as many new candidates as there are lanes left by the best of the previous rounds.
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

// The maximum logit of a digit, and below the sum of exponentials. Call after sum_shares.
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

// Prepares what weight_of needs. Ends with a barrier.
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

// The product of the softmaxes of an address's digits; 0 if it underflows.
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
