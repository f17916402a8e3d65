// Writes the carried state when there are several tiles of tokens. There are then at least as many tokens as inputs in it.
// Grid: rows (batch, channel). Reads x; writes state.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B C N
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>; // B C WIDTH-1, oldest first

@compute @workgroup_size(BEFORE)
fn conv1d_state(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    count_load(1u);
    count_store(1u);
    state[index * BEFORE + invocation] = f32(x[(index + 1u) * params.length - BEFORE + invocation - params.base]);
}
