// Adds the splits, in order.
// Grid: blocks of 64 groups of elements of all results. Reads partials; writes projected. Needs groups_of_one.wgsl or
// groups_of_four.wgsl.
@group(0) @binding(PARTIALS_BINDING) var<storage, read> partials: array<Group>; // [splits][units][K][dim]
@group(0) @binding(PROJECTED_BINDING) var<storage, read_write> projected: array<Group>; // [units][K][dim]

@compute @workgroup_size(64)
fn linformer_reduce(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let all = params.units * params.rank * params.dim / GROUP;
    let own = index * 64u + invocation;
    if (own >= all) {
        return;
    }
    count_load(GROUP);
    var value = partials[own];
    for (var split = 1u; split < params.splits; split++) {
        count_load(GROUP);
        let next = partials[split * all + own];
        value = select(value + next, max(value, next), POOL == 2u);
    }
    count_store(GROUP);
    projected[own] = value / count_of(own * GROUP / params.dim % params.rank);
}
