// Decode (one token): computes addresses, then writes and reads K slots of each memory, in one dispatch.
// Grid: units. Reads q, k, v, gamma; reads and writes memory; writes o.
@group(0) @binding(Q_BINDING) var<storage, read> q: array<Elem>; // B H 1 UP
@group(0) @binding(K_BINDING) var<storage, read> k: array<Elem>; // B H 1 UP
@group(0) @binding(V_BINDING) var<storage, read> v: array<Elem>; // B H 1 E
@group(0) @binding(GAMMA_BINDING) var<storage, read> gamma: array<Elem>; // B H 1
@group(0) @binding(MEMORY_BINDING) var<storage, read_write> memory: array<u32>; // content, masses, positions, as the bits of f32
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Elem>; // B H 1 E

var<workgroup> wg_rows: array<u32, 2>;
var<workgroup> wg_slots: array<u32, 2u * TOPK>;    // slots of the write, then of the read
var<workgroup> wg_weights: array<f32, 2u * TOPK>;  // rates of the write, then weights of the read

fn fetch_logit(vector: u32, i: u32) -> f32 {
    count_load(1u);
    if (vector == 1u) {
        return f32(q[wg_rows[1] + i]);
    }
    return f32(k[wg_rows[0] + i]);
}

fn gather_weight(unit: u32, i: u32) -> f32 {
    return wg_weights[TOPK + i];
}

fn gather_element(unit: u32, i: u32, e: u32) -> f32 {
    count_load(1u);
    return bitcast<f32>(memory[(unit * SLOTS + wg_slots[TOPK + i]) * params.dim_v + e]);
}

@compute @workgroup_size(LANES * 2u)
fn ramnet_decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let unit = group_index(params.grid, group, groups);
    if (unit >= params.grid.end) {
        return;
    }
    let b = unit_batch(unit);
    let h = unit_head(unit);
    let vector = invocation / LANES;
    let lane = invocation % LANES;
    if (lane == 0u) {
        wg_rows[vector] = select(head_start(params.k, b, h), head_start(params.q, b, h), vector == 1u);
    }
    let position = position_of(unit, 0u);
    beam(invocation);
    sum_shares(invocation, params.tau);
    if (lane < TOPK) {
        let address = wg_kept[vector * TOPK + lane].y;
        var weight = weight_of(vector, address, params.tau);
        var slot = address;
        if (has_cape(h)) {
            count_load(2u);
            slot = turned(address, cape_shift(memory[position], memory[position + 1u], 0u));
        }
        if (vector == 0u && weight != 0.0) {
            let at = params.mass_at + unit_memory(unit) * SLOTS + slot;
            count_load(2u);
            let g = f32(gamma[head_start(params.gamma, b, h)]);
            let mass = retention(weight, g) * bitcast<f32>(memory[at]) + weight;
            count_store(1u);
            memory[at] = bitcast<u32>(mass);
            weight /= mass + params.mass_eps;
        }
        wg_slots[vector * TOPK + lane] = slot;
        wg_weights[vector * TOPK + lane] = weight;
    }
    storageBarrier();
    workgroupBarrier();
    if (invocation == 0u) {
        advance_position(unit, 0u, 1u);
    }
    // Each column belongs to one invocation, so that its reads see its own writes.
    for (var e = invocation; e < params.dim_v; e += LANES * 2u) {
        let first = unit_memory(unit) * SLOTS * params.dim_v + e;
        count_load(1u);
        let value = f32(v[head_start(params.v, b, h) + e]);
        for (var i = 0u; i < TOPK; i++) {
            let rate = wg_weights[i];
            if (rate != 0.0) {
                let at = first + wg_slots[i] * params.dim_v;
                count_load(1u);
                count_store(1u);
                let content = bitcast<f32>(memory[at]);
                memory[at] = bitcast<u32>(content + rate * (value - content));
            }
        }
        count_store(1u);
        o[head_start(params.o, b, h) + e] = Elem(gather_sum(unit_memory(unit), TOPK, e));
    }
}
