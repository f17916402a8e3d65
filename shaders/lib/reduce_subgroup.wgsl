// Maxima and sums over all invocations of a workgroup, of REDUCED numbers at once, returned to all of them. The order is
// fixed. By subgroups of SUBGROUP neighbouring invocations each, and one barrier over these (reduce_any.wgsl). Starts with a
// barrier.
//
// The kernel defines INVOCATIONS, a multiple of SUBGROUP, and REDUCED; the prelude SUBGROUP.
const SUBGROUPS: u32 = INVOCATIONS / SUBGROUP;

var<workgroup> wg_reduce: array<f32, (SUBGROUPS * REDUCED + 3u) / 4u * 4u>; // [SUBGROUPS][REDUCED], and room to 16 bytes

fn combined(a: f32, b: f32, largest: bool) -> f32 {
    return select(a + b, max(a, b), largest);
}

fn reduce(invocation: u32, values: ptr<function, array<f32, REDUCED>>, largest: bool) {
    workgroupBarrier();
    for (var r = 0u; r < REDUCED; r++) {
        if (largest) {
            (*values)[r] = subgroupMax((*values)[r]);
        } else {
            (*values)[r] = subgroupAdd((*values)[r]);
        }
    }
    if (SUBGROUPS > 1u) {
        if (invocation % SUBGROUP == 0u) {
            for (var r = 0u; r < REDUCED; r++) {
                wg_reduce[invocation / SUBGROUP * REDUCED + r] = (*values)[r];
            }
        }
        workgroupBarrier();
        for (var r = 0u; r < REDUCED; r++) {
            (*values)[r] = wg_reduce[r];
        }
        for (var s = 1u; s < SUBGROUPS; s++) {
            for (var r = 0u; r < REDUCED; r++) {
                (*values)[r] = combined((*values)[r], wg_reduce[s * REDUCED + r], largest);
            }
        }
    }
}

fn all_max(invocation: u32, values: ptr<function, array<f32, REDUCED>>) {
    reduce(invocation, values, true);
}

fn all_sum(invocation: u32, values: ptr<function, array<f32, REDUCED>>) {
    reduce(invocation, values, false);
}
