// performer, pass 1: the state and running maximum after the tokens of one segment, starting from an empty state.
// Grid: column splits, segments, KV heads. Reads k, v, omega, gate; writes segments.
@group(0) @binding(3) var<storage, read_write> segments: array<f32>; // [B G][segments][segment_stride]

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn linear_performer_segment(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    if (invocation == 0u) {
        wg_running_max = NOTHING;
    }
    segment(index, invocation);
    let p = place(index);
    put_segment(running_max_at(p.kv, p.segment), wg_running_max, p.split == 0u && invocation == 0u);
}
