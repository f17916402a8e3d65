// Sorts the events of each tile of a block by slot, in place. Events of the same slot stay in time order.
// Grid: tiles, units. Reads and writes events.
@group(0) @binding(EVENTS_BINDING) var<storage, read_write> events: array<u32>; // [units][tiles][tile events]: slots, then keys

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
    let start = tile_start(index / params.tiles, tile);
    let count = tile_events(tile);
    for (var i = invocation; i < SORT; i += 256u) {
        var key = 0xffffffffu;
        if (i < count) {
            count_load(1u);
            key = (events[start + i] << BITS) | i;
        }
        wg_sorted[i] = key;
    }
    sort_tile(invocation);
    for (var i = invocation; i < count; i += 256u) {
        count_store(1u);
        events[start + i] = wg_sorted[i];
    }
}
