// Copies the masses that a block starts with, because one of the workgroups that read them writes those that it ends with.
// Grid: blocks of 256 masses. Reads memory; writes masses.
@group(0) @binding(MEMORY_BINDING) var<storage, read> memory: array<u32>; // masses
@group(0) @binding(MASSES_BINDING) var<storage, read_write> masses: array<f32>; // [memories][copies][SLOTS]

@compute @workgroup_size(256)
fn ramnet_masses(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let i = index * 256u + invocation;
    if (index >= params.grid.end || i >= params.memories * SLOTS) {
        return;
    }
    count_load(1u);
    let mass = bitcast<f32>(memory[params.mass_at + i]);
    for (var copy = 0u; copy < params.mass_copies; copy++) {
        count_store(1u);
        masses[(i / SLOTS * params.mass_copies + copy) * SLOTS + i % SLOTS] = mass;
    }
}
