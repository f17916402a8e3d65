// Few queries against a long cache, pass 2: the splits of a row put together.
// Grid: columns in blocks of 64, rows (batch, query head, query). Reads partials; writes o.
@compute @workgroup_size(COLUMNS)
fn yat_merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    attend_merge(index, invocation);
}
