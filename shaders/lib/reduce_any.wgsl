// Maxima and sums over all invocations of a workgroup, of REDUCED numbers at once, returned to all of them. The order is
// fixed. Through workgroup memory, for any device (reduce_subgroup.wgsl). Starts with a barrier and contains another.
//
// The kernel defines INVOCATIONS, a power of two of at least 64, and REDUCED, one of at most 16.
const PARTS: u32 = max(4u, 16u / REDUCED); // parts of the invocations that are reduced first

var<workgroup> wg_reduce: array<f32, REDUCED * INVOCATIONS>; // [REDUCED][INVOCATIONS]

fn combined(a: f32, b: f32, largest: bool) -> f32 {
    return select(a + b, max(a, b), largest);
}

fn reduce(invocation: u32, values: ptr<function, array<f32, REDUCED>>, largest: bool) {
    workgroupBarrier();
    // Numbers lie in another order in each row, so that the rows that are read together lie in different banks.
    for (var r = 0u; r < REDUCED; r++) {
        wg_reduce[r * INVOCATIONS + (invocation ^ (r * PARTS))] = (*values)[r];
    }
    workgroupBarrier();
    if (invocation < REDUCED * PARTS) {
        let first = invocation / PARTS * INVOCATIONS + invocation % PARTS;
        var part = wg_reduce[first];
        for (var i = PARTS; i < INVOCATIONS; i += PARTS) {
            part = combined(part, wg_reduce[first + i], largest);
        }
        wg_reduce[first] = part; // which no other invocation has read
    }
    workgroupBarrier();
    for (var r = 0u; r < REDUCED; r++) {
        var all = wg_reduce[r * INVOCATIONS];
        for (var i = 1u; i < PARTS; i++) {
            all = combined(all, wg_reduce[r * INVOCATIONS + i], largest);
        }
        (*values)[r] = all;
    }
}

fn all_max(invocation: u32, values: ptr<function, array<f32, REDUCED>>) {
    reduce(invocation, values, true);
}

fn all_sum(invocation: u32, values: ptr<function, array<f32, REDUCED>>) {
    reduce(invocation, values, false);
}
