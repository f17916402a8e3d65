// Delta rules, one token or a few one after another: reads the state with the key, updates it and reads it with the queries,
// in one dispatch. Columns and lanes are those of cores/recurrence/decode_lanes.wgsl; a lane keeps its rows in registers from
// the first token to the last. Prelude constant: ROWS_EACH, rows of a lane at most.
// Grid: column splits, KV heads. Reads k, v, q, beta; reads and writes state; writes o.
@group(0) @binding(BETA_BINDING) var<storage, read> beta: array<Strength>; // B G N

var<workgroup> wg_value: array<f32, COLUMNS>; // the value written to each column
var<workgroup> wg_beta: f32;

@compute @workgroup_size(COLUMNS * LANES)
fn linear_delta_decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let kv = index / params.col_splits;
    let b = kv / params.kv_heads;
    let g = kv % params.kv_heads;
    let per_kv = params.heads / params.kv_heads;
    let lane = invocation / COLUMNS;
    let column = invocation % COLUMNS;
    let e = index % params.col_splits * COLUMNS + column;
    let start = kv * params.rows * params.dim_v;
    var rows: array<f32, ROWS_EACH>;
    for (var i = 0u; i < ROWS_EACH; i++) {
        let d = lane + i * LANES;
        count_load(select(0u, 1u, d < params.rows && e < params.dim_v));
        rows[i] = state[start + initial_state_at(min(d, params.rows - 1u), min(e, params.dim_v - 1u))];
    }
    for (var n = 0u; n < params.queries; n++) {
        token = n;
        prepare_decay(b, g, invocation);
        prepare_key(b, g, invocation);
        if (invocation == 0u) {
            count_load(1u);
            wg_beta = f32(beta[head_start(params.beta, b, g) + token * params.beta.token]);
        }
        for (var r = 0u; r < per_kv; r++) {
            let h = g * per_kv + r;
            prepare_query(b, g, h, invocation);
            if (r == 0u) {
                var answer = 0.0;
                for (var i = 0u; i < ROWS_EACH; i++) {
                    let d = min(lane + i * LANES, params.rows - 1u);
                    rows[i] = left_of(vec4<f32>(decay_row(d)), vec4<f32>(rows[i])).x;
                    answer += select(0.0, key_feature(d) * rows[i], lane + i * LANES < params.rows);
                }
                wg_sum[invocation] = answer;
                workgroupBarrier();
                if (lane == 0u && e < params.dim_v) {
                    wg_value[column] = wg_beta * (value_of(b, g, e) - sum_lanes(column));
                }
                workgroupBarrier();
            }
            var sum = 0.0;
            for (var i = 0u; i < ROWS_EACH; i++) {
                let d = lane + i * LANES;
                if (d < params.rows && e < params.dim_v) {
                    if (r == 0u) {
                        rows[i] += key_feature(d) * wg_value[column];
                    }
                    sum += query_feature(d) * rows[i];
                }
            }
            wg_sum[invocation] = sum;
            workgroupBarrier();
            if (lane == 0u && e < params.dim_v) {
                count_store(1u);
                let at = head_start(params.o, b, h) + token * params.o.token + e;
                o[at] = Elem(params.scale * sum_lanes(column));
            }
            workgroupBarrier();
        }
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        let d = lane + i * LANES;
        if (d < params.rows && e < params.dim_v) {
            count_store(1u);
            state[start + initial_state_at(d, e)] = rows[i];
        }
    }
}
