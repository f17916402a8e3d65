// performer, pass 2 (or the only pass): processes the tokens of a segment from its initial state and running maximum,
// and reads the state for the queries. Grid: column splits, head splits, segments, KV heads. Reads q, k, v, state,
// omega, gate; writes o, and segments at the end.
@group(0) @binding(3) var<storage, read> q: array<Row>;             // B H N D
@group(0) @binding(4) var<storage, read> state: array<f32>;          // packed: B G F E, B G F, then B G
@group(0) @binding(5) var<storage, read_write> o: array<Row>;       // B H N E
@group(0) @binding(6) var<storage, read_write> segments: array<f32>; // [B G][segments][segment_stride]

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn linear_performer_output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let p = place(index);
    if (invocation == 0u) {
        wg_running_max = NOTHING;
        if (INIT == 1u) {
            count_load(1u);
            wg_running_max = segments[running_max_at(p.kv, select(0u, p.segment, CAUSAL == 1u)) + 1u];
        } else if (INIT == 2u) {
            count_load(1u);
            wg_running_max = state[params.extra_state + p.kv];
        }
    }
    output(index, invocation);
    let last = STORE == 1u && p.split == 0u && p.head_split == 0u && invocation == 0u;
    put_segment(running_max_at(p.kv, p.segment), wg_running_max, last);
}
