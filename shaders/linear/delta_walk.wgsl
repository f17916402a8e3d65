// Delta rules: processes tokens first .. end of a head, tile by tile, from an initial state.
// Grid: column splits, head splits, KV heads. Reads q, k, v, beta, state or segments; writes o, and segments at the end.
@group(0) @binding(3) var<storage, read> q: array<Row>;             // B H N D
@group(0) @binding(4) var<storage, read> state: array<f32>;          // B G D E
@group(0) @binding(5) var<storage, read_write> o: array<Row>;       // B H N E
@group(0) @binding(6) var<storage, read_write> segments: array<f32>; // [2][B G][D E], one page to read and one to write

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn linear_delta(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    walk_delta(index, invocation);
}
