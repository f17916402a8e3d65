// Softmax over the rank, fused with the product with the projected values: tiled attention over K projected keys.
// Grid: column splits, row blocks, head splits, heads of the projected keys. Reads q, k, v; writes o.
@group(0) @binding(1) var<storage, read> q: array<Elem>;       // B H N D
@group(0) @binding(2) var<storage, read> k: array<KeyElem>;    // B heads K D, projected
@group(0) @binding(3) var<storage, read> v: array<KeyElem>;    // B heads K E, projected
@group(0) @binding(4) var<storage, read_write> o: array<Elem>; // B H N E

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn linformer_attention(
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
