// Decode (one token): updates the state and reads it in one dispatch.
// Grid: KV heads. Reads k, v, q; reads and writes state; writes o.
@group(0) @binding(3) var<storage, read> q: array<Row>;          // B H 1 D
@group(0) @binding(4) var<storage, read_write> state: array<f32>; // packed: B G D' E, then B G D'
@group(0) @binding(5) var<storage, read_write> o: array<Row>;    // B H 1 E

@compute @workgroup_size(COLUMNS * LANES)
fn linear_decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let kv = group_index(params.grid, group, groups);
    if (kv >= params.grid.end) {
        return;
    }
    decode(kv, invocation);
}
