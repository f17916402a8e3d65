// Multiply-adds in registers: 32 independent ones per invocation and round, eight rounds per loop, so 512 flops per loop.
// Grid: any number of workgroups. Writes sums, so that the compiler cannot remove the work.
@group(0) @binding(SUMS_BINDING) var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(256)
fn probes_multiply_add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let start = f32(invocation) * 0.001;
    // Converges to 1 from any start: no overflow and no denormal numbers for any number of rounds.
    let a = vec4<f32>(0.75 + start * 0.1) + vec4<f32>(0.0, 0.01, 0.02, 0.03);
    let b = vec4<f32>(1.0) - a;
    var x0 = vec4<f32>(start) + vec4<f32>(0.0, 0.1, 0.2, 0.3);
    var x1 = x0 + 1.0;
    var x2 = x0 + 2.0;
    var x3 = x0 + 3.0;
    var x4 = x0 + 4.0;
    var x5 = x0 + 5.0;
    var x6 = x0 + 6.0;
    var x7 = x0 + 7.0;
    for (var round = 0u; round < params.rounds; round++) {
        for (var i = 0u; i < 8u; i++) {
            x0 = x0 * a + b;
            x1 = x1 * a + b;
            x2 = x2 * a + b;
            x3 = x3 * a + b;
            x4 = x4 * a + b;
            x5 = x5 * a + b;
            x6 = x6 * a + b;
            x7 = x7 * a + b;
        }
    }
    sums[index * 256u + invocation] = ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7));
}
