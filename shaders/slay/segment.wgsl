// Pass 1: the state after the tokens of one segment, starting from zero.
// Grid: column splits, segments, KV heads. Reads k, v, weights; writes segments.
@group(0) @binding(4) var<storage, read_write> segments: array<f32>; // [B G][segments][segment_stride]

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn slay_segment(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    cache_weights(place(index).g, invocation);
    segment(index, invocation);
}
