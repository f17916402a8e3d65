// Slots and weights of every token of a block, for its writes and its reads, and the share of the mass that its writes leave.
// Grid: VECTORS vectors of logits per workgroup (units, tokens, key and query). Reads q, k, gamma,
// memory; writes events, weights.
@group(0) @binding(Q_BINDING) var<storage, read> q: array<Elem>; // B H N UP
@group(0) @binding(K_BINDING) var<storage, read> k: array<Elem>; // B H N UP
@group(0) @binding(GAMMA_BINDING) var<storage, read> gamma: array<Elem>; // B H N
@group(0) @binding(MEMORY_BINDING) var<storage, read> memory: array<u32>; // positions
@group(0) @binding(EVENTS_BINDING) var<storage, read_write> events: array<u32>; // [units][tiles][tile events]: slots
@group(0) @binding(WEIGHTS_BINDING) var<storage, read_write> weights: array<f32>; // [units][tiles][tile tokens][3 K]: of writes, of reads, and what writes keep

var<workgroup> wg_rows: array<u32, VECTORS>;   // first logit of each vector; all ones if there is none
var<workgroup> wg_shifts: array<u32, VECTORS>;

fn fetch_logit(vector: u32, i: u32) -> f32 {
    let row = wg_rows[vector];
    if (row == 0xffffffffu) {
        return 0.0;
    }
    count_load(1u);
    // Even vectors are keys, odd ones queries.
    if (reads_query(vector)) {
        return f32(q[row + i]);
    }
    return f32(k[row + i]);
}

var<private> first_vector: u32;

fn reads_query(vector: u32) -> bool {
    return (first_vector + vector) % 2u == 1u;
}

@compute @workgroup_size(LANES * VECTORS)
fn ramnet_address(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    first_vector = index * VECTORS;
    let vector = invocation / LANES;
    let lane = invocation % LANES;
    let all = first_vector + vector;
    let t = all / 2u % params.tokens;
    let unit = all / 2u / params.tokens;
    let exists = unit < params.units;
    if (lane == 0u) {
        var row = 0xffffffffu;
        var shift = 0u;
        if (exists) {
            let b = unit_batch(unit);
            let h = unit_head(unit);
            let n = params.first_token + t;
            let key = head_start(params.k, b, h) + n * params.k.token;
            let query = head_start(params.q, b, h) + n * params.q.token;
            row = select(key, query, all % 2u == 1u);
            if (has_cape(h)) {
                let sequence = sequence_of(n);
                var position = vec2<u32>();
                if (params.carried == 1u) {
                    let at = position_of(unit, sequence.x);
                    count_load(2u);
                    position = vec2<u32>(memory[at], memory[at + 1u]);
                }
                shift = cape_shift(position.x, position.y, n - sequence.y);
            }
        }
        wg_rows[vector] = row;
        wg_shifts[vector] = shift;
    }
    beam(invocation);
    sum_shares(invocation, params.tau);
    if (exists && lane < TOPK) {
        let address = wg_kept[vector * TOPK + lane].y;
        let token = unit * params.tiles * params.tile_tokens + t;
        let weight = weight_of(vector, address, params.tau);
        count_store(2u);
        events[(token * 2u + all % 2u) * TOPK + lane] = turned(address, wg_shifts[vector]);
        weights[(token * 3u + all % 2u) * TOPK + lane] = weight;
        if (all % 2u == 0u) {
            count_load(1u);
            count_store(1u);
            let n = params.first_token + t;
            let g = f32(gamma[head_start(params.gamma, unit_batch(unit), unit_head(unit)) + n * params.gamma.token]);
            // A weight that underflows is no write.
            weights[(token * 3u + 2u) * TOPK + lane] = select(retention(weight, g), 1.0, weight == 0.0);
        }
    }
}
