// Copies the borders of packed sequences into the workspace, where kernels that have no binding to spare find them. None exceeds
// the number of tokens, so that no kernel leaves its tensors whatever the borders are. Grid: blocks of 64 borders.
//
// The kernel has the number of tokens (tokens), and stores a border (store_border).
@group(0) @binding(CU_SEQLENS_BINDING) var<storage, read> cu_seqlens: array<u32>; // S + 1

override BACKWARD: u32 = 0u; // 1: tokens and sequences are numbered from the last to the first

@compute @workgroup_size(64)
fn borders(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let s = index * 64u + invocation;
    if (index >= params.grid.end || s > params.sequences) {
        return;
    }
    count_load(1u);
    count_store(1u);
    let given = min(cu_seqlens[select(s, params.sequences - s, BACKWARD == 1u)], tokens());
    store_border(s, select(given, tokens() - given, BACKWARD == 1u));
}
