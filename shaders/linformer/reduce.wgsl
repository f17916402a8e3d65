// Adds the splits, in order.
// Grid: blocks of 64 elements of all results. Reads partials; writes projected.
@group(0) @binding(PARTIALS_BINDING) var<storage, read> partials: array<f32>; // [splits][units][K][dim]
@group(0) @binding(PROJECTED_BINDING) var<storage, read_write> projected: array<f32>; // [units][K][dim]

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
    let all = params.units * params.rank * params.dim;
    let element = index * 64u + invocation;
    if (element >= all) {
        return;
    }
    count_load(1u);
    var value = partials[element];
    for (var split = 1u; split < params.splits; split++) {
        count_load(1u);
        let next = partials[split * all + element];
        value = select(value + next, max(value, next), POOL == 2u);
    }
    count_store(1u);
    projected[element] = finish(value, element / params.dim % params.rank);
}
