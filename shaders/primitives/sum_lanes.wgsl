// Sums over LANES neighbouring invocations of 256, a power of two, returned to all of them. The order is fixed.
var<workgroup> wg_sums: array<f32, 256>;

fn row_sum(invocation: u32, own: f32) -> f32 {
    let lane = invocation % LANES;
    workgroupBarrier();
    wg_sums[invocation] = own;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            wg_sums[invocation] += wg_sums[invocation + half];
        }
        workgroupBarrier();
    }
    return wg_sums[invocation - lane];
}
