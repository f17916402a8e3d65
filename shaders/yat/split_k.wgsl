// Split-K, pass 1: few queries, with the keys split over workgroups.
// Grid: key splits, row blocks, KV heads. Reads q, k, v; writes partials.
@compute @workgroup_size(SPLIT_KEYS)
fn yat_split_k(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    split_k(index, invocation);
}
