// Stable sort of each tile of 2048 numbers of a list by bin.
// Grid: tiles, lists. Reads keys; writes order.
@group(0) @binding(KEYS_BINDING) var<storage, read> keys: array<u32>; // R n
@group(0) @binding(ORDER_BINDING) var<storage, read_write> order: array<u32>; // R n: places within the list

@compute @workgroup_size(256)
fn primitives_stable_sort_tiles(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let tiles = (params.count + SORT - 1u) / SORT;
    let first = index % tiles * SORT;
    let start = index / tiles * params.count;
    for (var i = invocation; i < SORT; i += 256u) {
        var key = 0xffffffffu;
        if (first + i < params.count) {
            count_load(1u);
            // A key that names no bin is sorted to the end.
            key = (min(keys[start + first + i], params.table) << 11u) | i;
        }
        wg_sorted[i] = key;
    }
    sort_tile(invocation);
    for (var i = invocation; i < SORT && first + i < params.count; i += 256u) {
        count_store(1u);
        order[start + first + i] = first + wg_sorted[i] % SORT;
    }
}
