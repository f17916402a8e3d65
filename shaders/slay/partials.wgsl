// A state too wide for one workgroup is split by rows, one dispatch per part. partials accumulates the sums of the parts.
@group(0) @binding(PARTIALS_BINDING) var<storage, read_write> partials: array<f32>; // [B H N][E + 1], used if rows are split

override FIRST: u32 = 1u; // 1: this dispatch has the first part of the rows; below: the last part
override LAST: u32 = 1u;

fn accumulated(at: u32, value: f32, exists: bool, keep: bool) -> f32 {
    if (!exists) {
        return value;
    }
    var all = value;
    if (FIRST == 0u) {
        count_load(1u);
        all += partials[at];
    }
    if (keep) {
        count_store(1u);
        partials[at] = all;
    }
    return all;
}

fn combine_row_splits(row: u32, split: u32, e: u32, sum: ptr<function, vec4<f32>>, weight: ptr<function, f32>) -> bool {
    if (FIRST == 1u && LAST == 1u) {
        return true;
    }
    let at = row * (params.dim_v + 1u) + e;
    for (var c = 0u; c < 4u; c++) {
        (*sum)[c] = accumulated(at + c, (*sum)[c], e + c < params.dim_v, LAST == 0u);
    }
    // Every column needs the weight; the first column stores it.
    *weight = accumulated(row * (params.dim_v + 1u) + params.dim_v, *weight, LAST == 1u || e == 0u, LAST == 0u);
    return LAST == 1u;
}
