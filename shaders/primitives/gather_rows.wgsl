// Weighted sums of rows of a table.
// Grid: blocks of 64 columns, rows. Reads indices, weight, values; writes o.
@group(0) @binding(INDICES_BINDING) var<storage, read> indices: array<u32>; // R K
@group(0) @binding(WEIGHT_BINDING) var<storage, read> weight: array<f32>; // R K
@group(0) @binding(VALUES_BINDING) var<storage, read> values: array<Elem>; // 1|B 1|H S E
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Elem>; // R E

fn gather_weight(at: u32, i: u32) -> f32 {
    count_load(1u);
    return weight[at * params.count + i];
}

fn gather_element(at: u32, i: u32, e: u32) -> f32 {
    count_load(1u);
    let row = indices[at * params.count + i];
    // An index past the end of the table counts as a row of zeros.
    if (row >= params.table) {
        return 0.0;
    }
    count_load(1u);
    let table = at / params.entry * params.table_batch + at / params.inner % params.heads * params.table_head;
    return f32(values[table + row * params.dim + e]);
}

@compute @workgroup_size(64)
fn primitives_gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let columns = (params.dim + 63u) / 64u;
    let row = index / columns;
    let e = index % columns * 64u + invocation;
    if (index >= params.grid.end || e >= params.dim) {
        return;
    }
    count_store(1u);
    o[row * params.dim + e] = Elem(gather_sum(row, params.count, e));
}
