// Adds the tokens of a run to the number of tokens seen, which ends at the largest u32. Grid: one workgroup.
@group(0) @binding(POSITION_BINDING) var<storage, read_write> position: array<u32>; // 1

@compute @workgroup_size(1)
fn primitives_embedding_advance(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    if (group_index(params.grid, group, groups) >= params.grid.end) {
        return;
    }
    count_load(1u);
    count_store(1u);
    let before = position[0];
    position[0] = before + min(params.tokens, 0xffffffffu - before);
}
