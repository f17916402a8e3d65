// Does nothing, to measure the cost of a dispatch.
// Grid: one workgroup. Writes sums only past the end of the grid, which never happens.
@group(0) @binding(SUMS_BINDING) var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(1)
fn probes_empty(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    if (group_index(params.grid, group, groups) > params.grid.end) {
        sums[0] = vec4<f32>(1.0);
    }
}
