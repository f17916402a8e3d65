// One token: writes the state and reads it, in one dispatch.
// Grid: key heads. Reads k, v, q; reads and writes state; writes o. 64 columns by 4 row lanes in a workgroup: every
// lane walks the rows d = lane, lane + 4, ... of its column, so the state goes through once, in order of addresses.
@group(0) @binding(1) var<storage, read> k: array<Elem>;          // B G 1 D
@group(0) @binding(2) var<storage, read> v: array<Elem>;          // B G 1 E
@group(0) @binding(3) var<storage, read> q: array<Elem>;          // B H 1 D
@group(0) @binding(4) var<storage, read_write> state: array<f32>; // packed: B G D E, then B G D
@group(0) @binding(5) var<storage, read_write> o: array<Elem>;    // B H 1 E

const COLUMNS: u32 = 64u;
const LANES: u32 = 4u;

var<workgroup> wg_key: array<f32, MAX_DIM>;
var<workgroup> wg_query: array<f32, MAX_DIM>;
var<workgroup> wg_sum: array<f32, COLUMNS * LANES>;

// Sum of one number of every invocation, the same for all; a fixed tree.
fn sum_all(invocation: u32, value: f32) -> f32 {
    workgroupBarrier();
    wg_sum[invocation] = value;
    workgroupBarrier();
    for (var half = COLUMNS * LANES / 2u; half > 0u; half /= 2u) {
        if (invocation < half) {
            wg_sum[invocation] += wg_sum[invocation + half];
        }
        workgroupBarrier();
    }
    return wg_sum[0];
}

@compute @workgroup_size(COLUMNS * LANES)
fn linear_decode(
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
    let size = params.dim_k * params.dim_v;
    let k_row = head_start(params.k, b, g);
    let v_row = head_start(params.v, b, g);

    // D is at most as many as there are invocations: one feature each.
    var key = 0.0;
    var norm = 0.0;
    if (invocation < params.dim_k) {
        count_load(1u);
        key = feature(f32(k[k_row + invocation]));
        wg_key[invocation] = key;
        if (NORMALIZE == 1u) {
            count_load(1u);
            count_store(1u);
            norm = state[params.norm_offset + kv * params.dim_k + invocation] + key;
            state[params.norm_offset + kv * params.dim_k + invocation] = norm;
        }
    }
    let lane = invocation / COLUMNS;
    for (var r = 0u; r < per_kv; r++) {
        let h = g * per_kv + r;
        var query = 0.0;
        if (invocation < params.dim_k) {
            count_load(1u);
            query = feature(f32(q[head_start(params.q, b, h) + invocation]));
            wg_query[invocation] = query;
        }
        var divisor = 1.0;
        if (NORMALIZE == 1u) {
            divisor = params.scale * sum_all(invocation, query * norm) + params.norm_eps;
        }
        workgroupBarrier();
        for (var first = 0u; first < params.dim_v; first += COLUMNS) {
            let e = first + invocation % COLUMNS;
            var sum = 0.0;
            if (e < params.dim_v) {
                var value = 0.0;
                if (r == 0u) {
                    count_load(1u);
                    value = f32(v[v_row + e]);
                }
                for (var d = lane; d < params.dim_k; d += LANES) {
                    let at = kv * size + d * params.dim_v + e;
                    count_load(1u);
                    var s = state[at];
                    // The first query head writes; the same invocation reads its own writes for the others.
                    if (r == 0u) {
                        s += wg_key[d] * value;
                        count_store(1u);
                        state[at] = s;
                    }
                    sum += wg_query[d] * s;
                }
            }
            wg_sum[invocation] = sum;
            workgroupBarrier();
            if (lane == 0u && e < params.dim_v) {
                let all = wg_sum[invocation] + wg_sum[invocation + COLUMNS]
                    + wg_sum[invocation + 2u * COLUMNS] + wg_sum[invocation + 3u * COLUMNS];
                count_store(1u);
                o[head_start(params.o, b, h) + e] = Elem(params.scale * all / divisor);
            }
            workgroupBarrier();
        }
    }
}
