// Pass 2 (or the only pass): processes the tokens of a segment from its initial state and reads the state for the queries.
// Grid: column splits, head splits, segments, KV heads. Reads q, k, v, state; writes o, and segments at the end.
@group(0) @binding(3) var<storage, read> q: array<Row>;             // B H N D
@group(0) @binding(4) var<storage, read> state: array<f32>;          // packed: B G D' E, then B G D'
@group(0) @binding(5) var<storage, read_write> o: array<Row>;       // B H N E
@group(0) @binding(6) var<storage, read_write> segments: array<f32>; // [B G][segments][segment_stride]

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn linear_output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    output(index, invocation);
}
