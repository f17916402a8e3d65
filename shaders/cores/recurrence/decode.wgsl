// Recurrence, decode (one token): updates the state and reads it, lane by lane (decode_lanes.wgsl). Needs a reduction.
// Prelude constants: AT_ONCE, rows of a lane whose loads are issued together, and TURNS, how many times all lanes have so many.
const REDUCED: u32 = 1u;

@compute @workgroup_size(COLUMNS * LANES)
fn recurrence_decode(
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
    let size = params.rows * params.dim_v;
    let norm = params.norm_offset + kv * params.rows;
    prepare_decay(b, g, invocation);
    prepare_key(b, g, invocation);
    let lane = invocation / COLUMNS;
    for (var r = 0u; r < per_kv; r++) {
        let h = g * per_kv + r;
        prepare_query(b, g, h, invocation);
        if (r + 1u == per_kv) {
            vectors_are_loaded(b, g, invocation);
        }
        var all_weight = 0.0;
        if (NORMALIZE == 1u) {
            var weight: array<f32, REDUCED>;
            weight[0] = 0.0;
            for (var d = invocation; d < params.rows; d += COLUMNS * LANES) {
                count_load(1u);
                var z = state[norm + d];
                // The first query head writes; the same invocation reads back its own writes for the other heads.
                if (r == 0u) {
                    z = left_of(vec4<f32>(decay_row(d)), vec4<f32>(z)).x + key_feature(d);
                    count_store(1u);
                    state[norm + d] = z;
                }
                weight[0] += query_feature(d) * z;
            }
            all_sum(invocation, &weight);
            all_weight = params.scale * weight[0];
        }
        workgroupBarrier();
        for (var first = index % params.col_splits * COLUMNS; first < params.dim_v; first += params.col_splits * COLUMNS) {
            if (r == 0u) {
                prepare_values(b, g, first, invocation);
            }
            let e = first + invocation % COLUMNS;
            var sum = 0.0;
            if (e < params.dim_v) {
                var value = 0.0;
                if (r == 0u) {
                    value = value_of(b, g, e);
                }
                for (var turn = 0u; turn < TURNS; turn++) {
                    let some = lane + turn * LANES * AT_ONCE;
                    var rows: array<f32, AT_ONCE>;
                    for (var i = 0u; i < AT_ONCE; i++) {
                        let d = some + i * LANES;
                        count_load(select(0u, 1u, d < params.rows));
                        rows[i] = state[kv * size + initial_state_at(min(d, params.rows - 1u), e)];
                    }
                    for (var i = 0u; i < AT_ONCE; i++) {
                        let d = some + i * LANES;
                        if (d < params.rows) {
                            var s = rows[i];
                            if (r == 0u) {
                                s = left_of(vec4<f32>(decay_row(d)), vec4<f32>(s)).x + key_feature(d) * value;
                                count_store(1u);
                                state[kv * size + initial_state_at(d, e)] = s;
                            }
                            sum += query_feature(d) * s;
                        }
                    }
                }
            }
            wg_sum[invocation] = sum;
            workgroupBarrier();
            if (lane == 0u && e < params.dim_v) {
                count_store(1u);
                let all = params.scale * sum_lanes(invocation);
                o[head_start(params.o, b, h) + e] = Elem(epilogue_one(b, h, e, normalize_one(all, all_weight)));
            }
            workgroupBarrier();
        }
    }
    keep_vectors(b, g, invocation);
}
