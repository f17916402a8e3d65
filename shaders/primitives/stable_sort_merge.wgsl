// Merges pairs of neighbouring sorted runs of a list: each number finds its place in the other run by binary search. For
// equal keys the left run comes first.
// Grid: blocks of 256 numbers, lists. Reads keys, source; writes order.
@group(0) @binding(KEYS_BINDING) var<storage, read> keys: array<u32>; // R n
@group(0) @binding(SOURCE_BINDING) var<storage, read> source: array<u32>; // R n: places, sorted in runs of params.run
@group(0) @binding(ORDER_BINDING) var<storage, read_write> order: array<u32>; // R n

fn key_of(start: u32, at: u32) -> u32 {
    count_load(2u);
    return min(keys[start + source[start + at]], params.table);
}

@compute @workgroup_size(256)
fn primitives_stable_sort_merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let blocks = (params.count + 255u) / 256u;
    let at = index % blocks * 256u + invocation;
    let start = index / blocks * params.count;
    if (index >= params.grid.end || at >= params.count) {
        return;
    }
    let pair = at / (2u * params.run) * 2u * params.run;
    let middle = min(pair + params.run, params.count);
    let end = min(middle + params.run, params.count);
    let left = at < middle;
    let key = key_of(start, at);
    // Count the elements of the other run that come before this one.
    var low = select(pair, middle, left);
    let other = low;
    var high = select(middle, end, left);
    while (low < high) {
        let mid = low + (high - low) / 2u;
        let its = key_of(start, mid);
        if (its < key || (its == key && !left)) {
            low = mid + 1u;
        } else {
            high = mid;
        }
    }
    let place = select(pair + (at - middle), at, left) + (low - other);
    count_load(1u);
    count_store(1u);
    order[start + place] = source[start + at];
}
