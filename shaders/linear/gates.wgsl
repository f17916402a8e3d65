// Log decays or strengths of all tokens, from the tensor in which a model stores them. Grid: blocks of 64 tokens of a head,
// heads.
//
// A variant brings gate_of(head, x), the number for an element x of the tensor.
@compute @workgroup_size(64)
fn linear_gates(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let n = index % params.blocks * 64u + invocation;
    if (index >= params.grid.end || n >= params.tokens) {
        return;
    }
    let b = index / params.blocks / params.heads;
    let h = index / params.blocks % params.heads;
    count_load(1u);
    count_store(1u);
    made[head_start(params.made, b, h) + n * params.made.token] =
        gate_of(h, f32(given[head_start(params.given, b, h) + n * params.given.token]));
}
