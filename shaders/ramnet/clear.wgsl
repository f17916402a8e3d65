// Initialises the memories of a run without a carried state.
// Grid: blocks of 256 elements of the buffer. Writes memory.
@group(0) @binding(MEMORY_BINDING) var<storage, read_write> memory: array<f32>; // content, masses, positions of some units

@compute @workgroup_size(256)
fn ramnet_clear(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let i = index * 256u + invocation;
    if (index >= params.grid.end || i >= params.position_at + 2u * params.units) {
        return;
    }
    count_store(1u);
    memory[i] = select(0.0, params.initial, i >= params.mass_at && i < params.mass_at + params.units * SLOTS);
}
