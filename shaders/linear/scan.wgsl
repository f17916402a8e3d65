// Between the passes: a left-to-right scan over the segment states, one invocation per state element.
// Grid: elements of a state in blocks of 64, KV heads. Reads and writes segments, state.
@group(0) @binding(1) var<storage, read_write> segments: array<f32>; // [B G][segments][segment_stride]
@group(0) @binding(2) var<storage, read_write> state: array<f32>;    // packed: B G D' E, then B G D'

@compute @workgroup_size(64)
fn linear_scan(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    scan(index, invocation);
}
