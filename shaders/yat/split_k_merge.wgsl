// Split-K, pass 2: merges the splits of each row.
// Grid: column blocks of 64, rows (batch, query head, query). Reads partials; writes o.
@compute @workgroup_size(COLUMNS)
fn yat_split_k_merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    split_k_merge(index, invocation);
}
