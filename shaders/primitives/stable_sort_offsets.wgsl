// Start of each bin in a sorted list.
// Grid: blocks of 256 offsets (bins + 1), lists. Reads keys, order; writes offsets.
@group(0) @binding(KEYS_BINDING) var<storage, read> keys: array<u32>; // R n
@group(0) @binding(ORDER_BINDING) var<storage, read> order: array<u32>; // R n
@group(0) @binding(OFFSETS_BINDING) var<storage, read_write> offsets: array<u32>; // R bins + 1

@compute @workgroup_size(256)
fn primitives_stable_sort_offsets(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let blocks = (params.table + 256u) / 256u;
    let bin = index % blocks * 256u + invocation;
    let list = index / blocks;
    if (index >= params.grid.end || bin > params.table) {
        return;
    }
    var low = 0u;
    var high = params.count;
    while (low < high) {
        let mid = low + (high - low) / 2u;
        count_load(2u);
        if (keys[list * params.count + order[list * params.count + mid]] < bin) {
            low = mid + 1u;
        } else {
            high = mid;
        }
    }
    count_store(1u);
    offsets[list * (params.table + 1u) + bin] = low;
}
