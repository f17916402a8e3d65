// Addresses with the K largest sums of one logit per digit, and their weights.
// Grid: VECTORS rows per workgroup. Reads logits; writes indices, weight.
@group(0) @binding(LOGITS_BINDING) var<storage, read> logits: array<Elem>; // R U P
@group(0) @binding(INDICES_BINDING) var<storage, read_write> indices: array<u32>; // R K
@group(0) @binding(WEIGHT_BINDING) var<storage, read_write> weight: array<f32>; // R K

override SURVIVORS: u32 = 0u; // 0: products of softmaxes; 1: softmax over the K kept sums

var<private> first_row: u32;

fn fetch_logit(vector: u32, i: u32) -> f32 {
    let row = first_row + vector;
    if (row >= params.rows) {
        return 0.0;
    }
    count_load(1u);
    return f32(logits[row * DIGITS * CHOICES + i]);
}

// Difference of two sums; 0 if they are equal, even if both are infinite.
fn difference(a: u32, b: u32) -> f32 {
    return select(sum_of(a) - sum_of(b), 0.0, a == b);
}

@compute @workgroup_size(LANES * VECTORS)
fn primitives_topk(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    first_row = index * VECTORS;
    let vector = invocation / LANES;
    let lane = invocation % LANES;
    beam(invocation);
    if (SURVIVORS == 0u) {
        sum_shares(invocation, params.tau);
    }
    if (first_row + vector >= params.rows || lane >= TOPK) {
        return;
    }
    let kept = wg_kept[vector * TOPK + lane];
    var share = 0.0;
    if (SURVIVORS == 0u) {
        share = weight_of(vector, kept.y, params.tau);
    } else {
        let top = wg_kept[vector * TOPK].x;
        var sum = 0.0;
        for (var i = 0u; i < TOPK; i++) {
            sum += exp(difference(wg_kept[vector * TOPK + i].x, top) / params.tau);
        }
        share = exp(difference(kept.x, top) / params.tau) / sum;
    }
    let at = (first_row + vector) * TOPK + lane;
    count_store(2u);
    indices[at] = kept.y;
    weight[at] = share;
}
