// Split-K, pass 2: merges the splits of a row, in a fixed order.
// Grid: column blocks, rows (batch, query head, query). Reads partials (split_k.wgsl); writes o.
//
// Consts of the prelude: COLUMNS4, MOST_SPLITS. Needs rows of o, a reduction, sink.wgsl or no_sink.wgsl, and lse.wgsl or
// no_lse.wgsl.
@group(0) @binding(PARTIALS_BINDING) var<storage, read> partials: array<vec4<f32>>; // [B H N][splits][E / 4 + 1]

const INVOCATIONS: u32 = 64u;
const REDUCED: u32 = 1u;
// COLUMNS4 invocations of four columns each, times LANES over the splits.
const LANES: u32 = INVOCATIONS / COLUMNS4;
// Splits of a lane whose sums are loaded at once.
const BATCH: u32 = 4u;

var<workgroup> wg_sums: array<vec4<f32>, INVOCATIONS>; // [LANES][COLUMNS4]
// The factors that multiply the sums of the splits.
var<workgroup> wg_factors: array<f32, MOST_SPLITS>;

// Merges one block of columns of one row.
fn split_k_merge(index: u32, invocation: u32) {
    let row = index / params.col_splits;
    let columns = (params.dim_v + 3u) / 4u;
    let stride = columns + 1u;
    let home = row * params.splits * stride;
    var top: array<f32, REDUCED>;
    var sum: array<f32, REDUCED>;
    top[0] = LOWEST;
    sum[0] = 0.0;
    for (var s = invocation; s < params.splits; s += INVOCATIONS) {
        count_load(1u);
        top[0] = max(top[0], partials[home + s * stride + columns].x);
    }
    all_max(invocation, &top);
    for (var s = invocation; s < params.splits; s += INVOCATIONS) {
        count_load(2u);
        let own = partials[home + s * stride + columns];
        let factor = exp2(own.x - top[0]);
        sum[0] += factor * own.y;
        wg_factors[s] = factor;
    }
    all_sum(invocation, &sum);
    let lane = invocation / COLUMNS4;
    let column = index % params.col_splits * COLUMNS4 + invocation % COLUMNS4;
    let at = home + min(column, columns - 1u);
    var out = vec4<f32>(0.0);
    for (var s = lane; s < params.splits; s += BATCH * LANES) {
        var own: array<vec4<f32>, BATCH>;
        for (var i = 0u; i < BATCH; i++) {
            let split = s + i * LANES;
            count_load(select(0u, 4u, split < params.splits && column < columns));
            own[i] = partials[at + min(split, params.splits - 1u) * stride];
        }
        for (var i = 0u; i < BATCH; i++) {
            let split = s + i * LANES;
            out += select(0.0, wg_factors[min(split, params.splits - 1u)], split < params.splits) * own[i];
        }
    }
    wg_sums[invocation] = out;
    workgroupBarrier();
    if (lane == 0u) {
        for (var l = 1u; l < LANES; l++) {
            out += wg_sums[l * COLUMNS4 + invocation];
        }
        let head = row / params.queries;
        let sums = with_sink(head % params.heads, top[0], sum[0]);
        if (LSE && column == 0u) {
            store_lse(head / params.heads, head % params.heads, row % params.queries, sums.x, sums.y);
        }
        let o_row = head_start(params.o, head / params.heads, head % params.heads) + row % params.queries * params.o.token;
        count_store(four_of(4u * column, params.dim_v));
        store_o(o_row, 4u * column, out * (sums.z / divisor_of(sums.y)));
    }
}

@compute @workgroup_size(INVOCATIONS)
fn attention_split_k_merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    split_k_merge(index, invocation);
}
