// Sums over all invocations of a workgroup, returned to all of them. Needs reduce_any.wgsl or reduce_subgroup.wgsl.
fn row_sum(invocation: u32, own: f32) -> f32 {
    var sums = array<f32, REDUCED>(own);
    all_sum(invocation, &sums);
    return sums[0];
}
