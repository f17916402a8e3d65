// RMS norm of rows, times an optional weight, times the sigmoid of an optional gate.
// Grid: groups of 4 rows. Reads x, gate, weight; writes o.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // R E
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<Elem>; // R E; a dummy if there is none
@group(0) @binding(WEIGHT_BINDING) var<storage, read> weight: array<f32>; // E, or H E; a dummy if there is none
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Elem>; // R E

override WEIGHTS: u32 = 0u; // 0: none; 1: one for all heads; 2: one per head
override GATED: u32 = 1u;

var<workgroup> wg_sums: array<f32, 256>;

@compute @workgroup_size(256)
fn primitives_gated_norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let row = index * 4u + invocation / 64u;
    let lane = invocation % 64u;
    let end = select(0u, params.dim, row < params.rows);
    var square = 0.0;
    for (var e = lane; e < end; e += 64u) {
        count_load(1u);
        let value = f32(x[row * params.dim + e]);
        square += value * value;
    }
    wg_sums[invocation] = square;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (lane < half) {
            wg_sums[invocation] += wg_sums[invocation + half];
        }
        workgroupBarrier();
    }
    let root = 1.0 / sqrt(wg_sums[invocation - lane] / f32(params.dim) + params.eps);
    let head = select(0u, row / params.inner % params.heads, WEIGHTS == 2u);
    for (var e = lane; e < end; e += 64u) {
        let at = row * params.dim + e;
        count_load(1u);
        var value = f32(x[at]) * root;
        if (WEIGHTS > 0u) {
            count_load(1u);
            value *= weight[head * params.dim + e];
        }
        if (GATED > 0u) {
            count_load(1u);
            value /= 1.0 + exp(-f32(gate[at]));
        }
        count_store(1u);
        o[at] = Elem(value);
    }
}
