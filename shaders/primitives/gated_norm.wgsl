// Norm of rows, times an optional weight, plus an optional bias, times the activation of an optional gate. LANES neighbouring
// invocations share a row: each takes every LANES-th piece of COLUMNS columns, PIECES of them at most.
// Grid: groups of 256 / LANES rows. Reads x, gate, weight, bias; writes o.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Stored>; // B H N E
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<Stored>; // B H N E; a dummy if there is none
@group(0) @binding(WEIGHT_BINDING) var<storage, read> weight: array<Columns>; // E, or H E; a dummy if there is none
@group(0) @binding(BIAS_BINDING) var<storage, read> bias: array<Columns>; // E, or H E; a dummy if there is none
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Stored>; // R E

override KIND: u32 = 1u; // 0: none; 1: by the mean square; 2: by the variance, around the mean
override WEIGHTS: u32 = 0u; // 0: none; 1: one for all heads; 2: one per head
override BIASES: u32 = 0u; // the same
override GATE: u32 = 0u; // 0: none; 1: sigmoid; 2: SiLU

fn load_columns(at: u32) -> Columns {
    count_load(COLUMNS);
    return Columns(x[at]);
}

fn activation(gate: Columns) -> Columns {
    // Below this, the result is smaller than any normal number.
    let most = Columns(87.0);
    let share = select(1.0 / (1.0 + exp(-clamp(gate, -most, most))), Columns(0.0), gate < -most);
    if (GATE == 2u) {
        return gate * share;
    }
    return share;
}

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
    let lane = invocation % LANES;
    let row = index * (256u / LANES) + invocation / LANES;
    let pieces = params.dim / COLUMNS;
    let end = select(0u, pieces, row < params.rows);
    let batch = row / params.entry;
    let head = row / params.inner % params.heads;
    let token = row / params.step % params.len;
    let start = (head_start(params.x, batch, head) + token * params.x.token) / COLUMNS;

    var sum = 0.0;
    if (KIND > 0u) {
        for (var p = 0u; p < PIECES; p++) {
            let e = p * LANES + lane;
            if (e < end) {
                let value = first_columns(p, start + e);
                if (KIND == 1u) {
                    sum += total_of_squares(value);
                } else {
                    sum += total(value);
                }
            }
        }
    }
    var mean = 0.0;
    if (KIND == 2u) {
        mean = row_sum(invocation, sum) / f32(params.dim);
        sum = 0.0;
        for (var p = 0u; p < PIECES; p++) {
            let e = p * LANES + lane;
            if (e < end) {
                sum += total_of_squares(same_columns(p, start + e) - mean);
            }
        }
    }
    var root = 1.0;
    if (KIND > 0u) {
        root = 1.0 / sqrt(row_sum(invocation, sum) / f32(params.dim) + params.eps);
    }

    let gate_start = (head_start(params.gate, batch, head) + token * params.gate.token) / COLUMNS;
    let weight_start = select(0u, head, WEIGHTS == 2u) * pieces;
    let bias_start = select(0u, head, BIASES == 2u) * pieces;
    for (var p = 0u; p < PIECES; p++) {
        let e = p * LANES + lane;
        if (e < end) {
            var value = (same_columns(p, start + e) - mean) * root;
            if (WEIGHTS > 0u) {
                count_load(COLUMNS);
                value *= weight[weight_start + e];
            }
            if (BIASES > 0u) {
                count_load(COLUMNS);
                value += bias[bias_start + e];
            }
            if (GATE > 0u) {
                count_load(COLUMNS);
                value *= activation(Columns(gate[gate_start + e]));
            }
            count_store(COLUMNS);
            o[row * pieces + e] = Stored(value);
        }
    }
}
