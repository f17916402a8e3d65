// Attention for all queries: each workgroup computes a block of rows against the keys they see.
// Grid: column splits, row blocks, head splits, KV heads. Reads q, k, v; writes o.
@group(0) @binding(4) var<storage, read_write> o: array<Elem>; // B H N E

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn yat_attention(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    attention(block_of(index), invocation);
}
