// Copies the borders of packed sequences behind the stored segments, where kernels that have no binding to spare find them.
// None exceeds N, so that no kernel leaves its tensors whatever the borders are. Grid: blocks of 64 borders.
@group(0) @binding(CU_SEQLENS_BINDING) var<storage, read> cu_seqlens: array<u32>; // S + 1

override BACKWARD: u32 = 0u; // 1: tokens and sequences are numbered from the last to the first

@compute @workgroup_size(64)
fn recurrence_borders(
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
    let given = min(cu_seqlens[select(s, params.sequences - s, BACKWARD == 1u)], params.keys);
    let border = select(given, params.keys - given, BACKWARD == 1u);
    write_segment(params.kv_heads * params.stored_segments * params.segment_stride + s, bitcast<f32>(border));
}
