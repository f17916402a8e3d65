// Split-K, pass 2: merges the splits of a row, in order.
// Grid: column blocks of 64, rows (batch, query head, query). Reads partials; writes o.
// Needs sink.wgsl or no_sink.wgsl, and lse.wgsl or no_lse.wgsl.
@group(0) @binding(PARTIALS_BINDING) var<storage, read> partials: array<f32>; // [B H N][splits][E + 2]
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Elem>; // B H N E

const COLUMNS: u32 = 64u;

// Merges one block of columns of one row.
fn split_k_merge(index: u32, invocation: u32) {
    let e = index % params.col_splits * COLUMNS + invocation;
    let row = index / params.col_splits;
    if (e >= params.dim_v) {
        return;
    }
    let stride = params.dim_v + 2u;
    let home = row * params.splits * stride;
    var top = LOWEST;
    var sum = 0.0;
    var out = 0.0;
    for (var s = 0u; s < params.splits; s++) {
        let at = home + s * stride;
        count_load(3u);
        let largest = max(top, partials[at + params.dim_v]);
        let before = exp2(top - largest);
        let own = exp2(partials[at + params.dim_v] - largest);
        sum = sum * before + partials[at + params.dim_v + 1u] * own;
        out = out * before + partials[at + e] * own;
        top = largest;
    }
    let head = row / params.queries;
    if (SINK) {
        let score = sink_of(head % params.heads);
        let largest = max(top, score);
        let before = exp2(top - largest);
        sum = sum * before + exp2(score - largest);
        out *= before;
        top = largest;
    }
    if (LSE && e == 0u) {
        store_lse(head / params.heads, head % params.heads, row % params.queries, top, sum);
    }
    let at = head_start(params.o, head / params.heads, head % params.heads) + row % params.queries * params.o.token;
    count_store(1u);
    o[at + e] = Elem(out / divisor_of(sum));
}

@compute @workgroup_size(COLUMNS)
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
