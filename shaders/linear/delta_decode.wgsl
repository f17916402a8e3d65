// Delta rules, decode (one token): reads the state with the key, updates it and reads it with the queries, in one dispatch.
// Columns and lanes are those of cores/recurrence/decode_lanes.wgsl.
// Grid: KV heads. Reads k, v, q, beta; reads and writes state; writes o.
@group(0) @binding(BETA_BINDING) var<storage, read> beta: array<Strength>; // B G 1

var<workgroup> wg_beta: f32;
var<workgroup> wg_value: array<f32, COLUMNS>; // the value written to each column

fn sum_lanes(column: u32) -> f32 {
    return wg_sum[column] + wg_sum[column + COLUMNS] + wg_sum[column + 2u * COLUMNS] + wg_sum[column + 3u * COLUMNS];
}

// The decayed state in row d.
fn decayed(at: u32, d: u32) -> f32 {
    count_load(1u);
    return left_of(vec4<f32>(decay_row(d)), vec4<f32>(state[at])).x;
}

@compute @workgroup_size(COLUMNS * LANES)
fn linear_delta_decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let kv = group_index(params.grid, group, groups);
    if (kv >= params.grid.end) {
        return;
    }
    let b = kv / params.kv_heads;
    let g = kv % params.kv_heads;
    let per_kv = params.heads / params.kv_heads;
    let lane = invocation / COLUMNS;
    let column = invocation % COLUMNS;
    prepare_decay(b, g, invocation);
    prepare_key(b, g, invocation);
    if (invocation == 0u) {
        count_load(1u);
        wg_beta = f32(beta[head_start(params.beta, b, g)]);
    }
    for (var r = 0u; r < per_kv; r++) {
        let h = g * per_kv + r;
        prepare_query(b, g, h, invocation);
        for (var first = 0u; first < params.dim_v; first += COLUMNS) {
            let e = first + column;
            let start = kv * params.rows * params.dim_v;
            // The first query head writes; the same invocation reads back its own writes for the other heads.
            if (r == 0u) {
                var answer = 0.0;
                if (e < params.dim_v) {
                    for (var d = lane; d < params.rows; d += LANES) {
                        answer += key_feature(d) * decayed(start + initial_state_at(d, e), d);
                    }
                }
                wg_sum[invocation] = answer;
                workgroupBarrier();
                if (lane == 0u && e < params.dim_v) {
                    wg_value[column] = wg_beta * (value_of(b, g, e) - sum_lanes(column));
                }
                workgroupBarrier();
            }
            var sum = 0.0;
            if (e < params.dim_v) {
                for (var d = lane; d < params.rows; d += LANES) {
                    let at = start + initial_state_at(d, e);
                    var s = 0.0;
                    if (r == 0u) {
                        s = decayed(at, d) + key_feature(d) * wg_value[column];
                        count_store(1u);
                        state[at] = s;
                    } else {
                        count_load(1u);
                        s = state[at];
                    }
                    sum += query_feature(d) * s;
                }
            }
            wg_sum[invocation] = sum;
            workgroupBarrier();
            if (lane == 0u && e < params.dim_v) {
                count_store(1u);
                o[head_start(params.o, b, h) + e] = Elem(params.scale * sum_lanes(column));
            }
            workgroupBarrier();
        }
    }
}
