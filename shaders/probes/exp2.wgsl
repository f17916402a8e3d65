// Exponentials in registers: 16 independent ones per invocation and round, four rounds per loop, so 64 per loop.
// Grid: any number of workgroups. Writes sums, so that the compiler cannot remove the work.
@group(0) @binding(SUMS_BINDING) var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(256)
fn probes_exp2(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    // exp2(-x) stays between 0 and 1.
    var x0 = vec4<f32>(f32(invocation) * 0.003) + vec4<f32>(0.0, 0.02, 0.04, 0.06);
    var x1 = x0 + 0.1;
    var x2 = x0 + 0.2;
    var x3 = x0 + 0.3;
    for (var round = 0u; round < params.rounds; round++) {
        for (var i = 0u; i < 4u; i++) {
            x0 = exp2(-x0);
            x1 = exp2(-x1);
            x2 = exp2(-x2);
            x3 = exp2(-x3);
        }
    }
    sums[index * 256u + invocation] = (x0 + x1) + (x2 + x3);
}
