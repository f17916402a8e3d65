// Merges the sorted tiles of a block. The place of an event is its place in its own tile, plus the number of smaller keys in
// every other tile.
// Grid: tiles, units. Reads sorted; writes keys.
@group(0) @binding(SORTED_BINDING) var<storage, read> sorted: array<u32>; // [units][tiles][tile events]: keys
@group(0) @binding(KEYS_BINDING) var<storage, read_write> keys: array<u32>; // [units][block events]: keys, sorted

const OWN: u32 = SORT / 256u; // events per invocation
var<workgroup> wg_other: array<u32, SORT>;

// This invocation's keys of a tile; all ones after the last.
fn load_keys(start: u32, tile: u32, invocation: u32) -> array<u32, OWN> {
    var loaded: array<u32, OWN>;
    for (var j = 0u; j < OWN; j++) {
        let i = invocation + j * 256u;
        loaded[j] = 0xffffffffu;
        if (i < tile_events(tile)) {
            count_load(1u);
            loaded[j] = sorted[start + tile_start(tile) + i];
        }
    }
    return loaded;
}

@compute @workgroup_size(256)
fn ramnet_merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let tile = index % params.tiles;
    let start = block_start(index / params.tiles);
    let own = load_keys(start, tile, invocation);
    var places: array<u32, OWN>;
    for (var j = 0u; j < OWN; j++) {
        places[j] = invocation + j * 256u;
    }
    var ahead = load_keys(start, (tile + 1u) % params.tiles, invocation);
    for (var next = 1u; next < params.tiles; next++) {
        workgroupBarrier();
        for (var j = 0u; j < OWN; j++) {
            wg_other[invocation + j * 256u] = ahead[j];
        }
        workgroupBarrier();
        if (next + 1u < params.tiles) {
            ahead = load_keys(start, (tile + next + 1u) % params.tiles, invocation);
        }
        var below: array<u32, OWN>;
        for (var half = SORT / 2u; half > 0u; half /= 2u) {
            for (var j = 0u; j < OWN; j++) {
                below[j] += select(0u, half, wg_other[below[j] + half - 1u] < own[j]);
            }
        }
        for (var j = 0u; j < OWN; j++) {
            places[j] += below[j] + select(0u, 1u, wg_other[below[j]] < own[j]);
        }
    }
    for (var j = 0u; j < OWN; j++) {
        if (invocation + j * 256u < tile_events(tile)) {
            count_store(1u);
            keys[start + places[j]] = own[j];
        }
    }
}
