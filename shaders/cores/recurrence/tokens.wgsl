// Recurrence, a few tokens from a carried state in one dispatch: one after another, as decode.wgsl takes each. A lane keeps
// its rows of its column in registers from the first token to the last (decode_lanes.wgsl). Not for sums that are normalised.
//
// Prelude constant: ROWS_EACH, rows of a lane at most.
@compute @workgroup_size(COLUMNS * LANES)
fn recurrence_tokens(
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
    let e = index % params.col_splits * COLUMNS + invocation % COLUMNS;
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
        for (var r = 0u; r < per_kv; r++) {
            let h = g * per_kv + r;
            prepare_query(b, g, h, invocation);
            var sum = 0.0;
            if (e < params.dim_v) {
                var value = 0.0;
                if (r == 0u) {
                    value = value_of(b, g, e);
                }
                for (var i = 0u; i < ROWS_EACH; i++) {
                    let d = lane + i * LANES;
                    if (d < params.rows) {
                        if (r == 0u) {
                            rows[i] = left_of(vec4<f32>(decay_row(d)), vec4<f32>(rows[i])).x + key_feature(d) * value;
                        }
                        sum += query_feature(d) * rows[i];
                    }
                }
            }
            wg_sum[invocation] = sum;
            workgroupBarrier();
            if (lane == 0u && e < params.dim_v) {
                count_store(1u);
                let one = normalize_one(params.scale * sum_lanes(invocation), 0.0);
                o[head_start(params.o, b, h) + token * params.o.token + e] = Elem(epilogue_one(b, h, e, one));
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
