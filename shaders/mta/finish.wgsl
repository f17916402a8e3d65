// Applies the norm and the gate to each head's output, in place.
// Grid: rows (batch, head, query, in the order of the layout). Reads weights; updates o.
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>;
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Elem>; // B H N E

override NORM: u32 = 1u;
override GATES: u32 = 1u; // 0: none; 1: one per row; 2: one per channel
override BIAS: u32 = 1u;

const LANES: u32 = 64u;

var<workgroup> wg_row: array<f32, ROOM>; // a row before its gate, kept if every channel has a gate
var<workgroup> wg_sums: array<f32, LANES>;

// Sum over all invocations. Ends with a barrier.
fn sum_all(own: f32, lane: u32) -> f32 {
    workgroupBarrier();
    wg_sums[lane] = own;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            wg_sums[lane] += wg_sums[lane + half];
        }
        workgroupBarrier();
    }
    return wg_sums[0];
}

fn opened(logit: f32, gate: u32) -> f32 {
    var biased = logit;
    if (BIAS == 1u) {
        biased += weights[params.gate_bias + gate];
    }
    return 1.0 / (1.0 + exp(-biased));
}

@compute @workgroup_size(LANES)
fn mta_finish(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let at = index * params.dim_v - params.o.base;
    var root = 1.0;
    if (NORM == 1u) {
        var square = 0.0;
        for (var e = lane; e < params.dim_v; e += LANES) {
            count_load(1u);
            let value = f32(o[at + e]);
            square += value * value;
        }
        root = params.factor / sqrt(sum_all(square, lane) / f32(params.dim_v) + params.norm_eps);
    }
    var logit = 0.0;
    for (var e = lane; e < params.dim_v; e += LANES) {
        count_load(1u);
        var value = f32(o[at + e]);
        if (NORM == 1u) {
            value *= root * weights[params.norm + e];
        }
        if (GATES == 1u) {
            logit += weights[params.gate_weight + e] * value;
        }
        if (GATES == 2u) {
            wg_row[e] = value;
        } else if (GATES == 0u) {
            count_store(1u);
            o[at + e] = Elem(value);
        }
    }
    if (GATES == 1u) {
        let gate = opened(sum_all(logit, lane), 0u);
        for (var e = lane; e < params.dim_v; e += LANES) {
            count_load(1u);
            var value = f32(o[at + e]) * gate;
            if (NORM == 1u) {
                value *= root * weights[params.norm + e];
            }
            count_store(1u);
            o[at + e] = Elem(value);
        }
    }
    if (GATES == 2u) {
        workgroupBarrier();
        for (var e = lane; e < params.dim_v; e += LANES) {
            var own = 0.0;
            for (var i = 0u; i < params.dim_v; i++) {
                own += weights[params.gate_weight + e * params.dim_v + i] * wg_row[i];
            }
            count_store(1u);
            o[at + e] = Elem(wg_row[e] * opened(own, e));
        }
    }
}
