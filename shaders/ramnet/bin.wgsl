// Sorts the events of each tile of a block by slot. Events of the same slot stay in time order.
// Grid: tiles, units. Reads events; writes sorted.
@group(0) @binding(EVENTS_BINDING) var<storage, read> events: array<u32>; // [units][block events]: slots
@group(0) @binding(SORTED_BINDING) var<storage, read_write> sorted: array<u32>; // [units][tiles][tile events]: keys

@compute @workgroup_size(256)
fn ramnet_bin(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let tile = index % params.tiles;
    let first = tile_start(tile);
    let start = block_start(index / params.tiles) + first;
    let count = tile_events(tile);
    for (var i = invocation; i < SORT; i += 256u) {
        var key = 0xffffffffu;
        if (i < count) {
            count_load(1u);
            key = (events[start + i] << BITS) | (first + i);
        }
        wg_sorted[i] = key;
    }
    sort_tile(invocation);
    for (var i = invocation; i < count; i += 256u) {
        count_store(1u);
        sorted[start + i] = wg_sorted[i];
    }
}
