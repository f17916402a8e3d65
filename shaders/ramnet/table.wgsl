// Takes the tokens of a block in order: each workgroup has some columns of one memory as a table. An invocation belongs to one
// column and one of RANKS ranks of the K slots, which a token writes, or reads, at once.
// Grid: blocks of columns, sequences, units. Reads events, weights, v, masses; reads and writes memory, o.
//
// Loads from global memory do not depend on the table. Those of BATCH tokens are issued together while the BATCH tokens before
// are taken. Masses are one token ahead of contents, so that no content waits for a division.
//
// Prelude constants: COLUMNS; RANKS, at most K; PER, the ranks per invocation; BATCH.
@group(0) @binding(EVENTS_BINDING) var<storage, read> events: array<u32>; // [units][block tokens][2 K]: slots
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // [units][block tokens][3 K]
@group(0) @binding(V_BINDING) var<storage, read> v: array<Elem>; // B H N E
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Out>; // B H N E

override SUMMED: u32 = 0u; // 1: the outputs are added to those of the run before

var<workgroup> wg_sums: array<f32, BATCH * RANKS * COLUMNS>; // what the ranks of a token read

// Loads of BATCH tokens. Arrays of slots and weights have PER entries per token.
struct Batch {
    slots: array<u32, BATCH * PER>,    // writes, of the tokens that follow these
    weights: array<f32, BATCH * PER>,
    keeps: array<f32, BATCH * PER>,    // share of the mass that a write leaves
    read_slots: array<u32, BATCH * PER>,
    read_weights: array<f32, BATCH * PER>,
    values: array<f32, BATCH>,
}

// The j-th rank of an invocation, from its first one on. Ranks that there are not load what the last one loads.
fn rank_of(p: Place, j: u32) -> u32 {
    if (PER * RANKS == TOPK) {
        return j * RANKS;
    }
    return min(p.rank + j * RANKS, TOPK - 1u) - p.rank;
}

fn is_rank(p: Place, j: u32) -> bool {
    return PER * RANKS == TOPK || p.rank + j * RANKS < TOPK;
}

// Slot of an access, of the writes or of the reads (`reads` 1) of a token.
fn slot_of(p: Place, t: u32, reads: u32, j: u32) -> u32 {
    count_load(1u);
    return events[p.events + t * 2u * TOPK + (reads * TOPK + rank_of(p, j))];
}

// Weight of a write (`part` 0) or read (1), or what a write keeps (2). Of ranks and tokens that there are not, `otherwise`, by
// which they neither write nor add.
fn weight_of(p: Place, t: u32, part: u32, j: u32, exists: bool, otherwise: f32) -> f32 {
    count_load(1u);
    let weight = weights[p.weights + t * 3u * TOPK + (part * TOPK + rank_of(p, j))];
    return select(otherwise, weight, exists && is_rank(p, j));
}

fn load_batch(p: Place, base: u32) -> Batch {
    var batch: Batch;
    for (var i = 0u; i < BATCH; i++) {
        let t = min(base + i, p.end - 1u);
        let next = min(base + i + 1u, p.end - 1u);
        count_load(1u);
        batch.values[i] = f32(v[p.values + t * params.v.token]);
        for (var j = 0u; j < PER; j++) {
            let at = i * PER + j;
            batch.slots[at] = slot_of(p, next, 0u, j);
            batch.weights[at] = weight_of(p, next, 0u, j, base + i + 1u < p.end, 0.0);
            batch.keeps[at] = weight_of(p, next, 2u, j, base + i + 1u < p.end, 1.0);
            batch.read_slots[at] = slot_of(p, t, 1u, j);
            batch.read_weights[at] = weight_of(p, t, 1u, j, base + i < p.end, 0.0);
        }
    }
    return batch;
}

fn store_mass(p: Place, slot: u32) {
    count_store(1u);
    memory[params.mass_at + p.stores * SLOTS + slot] = bitcast<u32>(mass_of(p, slot));
}

fn rate_of(weight: f32, mass: f32) -> f32 {
    return select(weight / (mass + params.mass_eps), 0.0, weight == 0.0);
}

@compute @workgroup_size(COLUMNS * RANKS)
fn ramnet_table(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let blocks = (params.dim_v + COLUMNS - 1u) / COLUMNS;
    let unit = index / blocks / params.sequences;
    let sequence = index / blocks % params.sequences;
    let span = sequence_span(sequence);
    let first = max(span.x, params.first_token);
    var p: Place;
    // Apart from the place, so that the bounds of the loop below are uniform.
    let end = min(span.y, params.first_token + params.tokens);
    if (first >= end) {
        return;
    }
    p.end = end;
    p.invocation = invocation;
    p.column = invocation % COLUMNS;
    p.rank = invocation / COLUMNS;
    p.first_column = index % blocks * COLUMNS;
    p.is_inside = p.first_column + p.column < params.dim_v;
    p.events = (unit * params.tokens - params.first_token) * 2u * TOPK + p.rank;
    p.weights = (unit * params.tokens - params.first_token) * 3u * TOPK + p.rank;
    p.values = head_start(params.v, unit_batch(unit), unit_head(unit)) + min(p.first_column + p.column, params.dim_v - 1u);
    p.loads = params.load_at + sequence * params.memory_step + unit_memory(unit);
    p.stores = params.store_at + sequence * params.memory_step + unit_memory(unit);

    let starts = span.x >= params.first_token;
    open_table(p, starts && params.carried == 0u, invocation);
    table_barrier();

    // The slots that the token writes, and the rates.
    var slots: array<u32, PER>;
    var rates: array<f32, PER>;
    var new_masses: array<f32, PER>;
    for (var j = 0u; j < PER; j++) {
        slots[j] = slot_of(p, first, 0u, j);
        rates[j] = weight_of(p, first, 0u, j, true, 0.0);
        new_masses[j] = weight_of(p, first, 2u, j, true, 1.0) * mass_of(p, slots[j]) + rates[j];
    }
    table_barrier();
    for (var j = 0u; j < PER; j++) {
        put_mass(p, slots[j], new_masses[j], is_rank(p, j));
        rates[j] = rate_of(rates[j], new_masses[j]);
    }
    table_barrier();

    var batch = load_batch(p, first);
    for (var base = first; base < end; base += BATCH) {
        let next = load_batch(p, base + BATCH);
        for (var i = 0u; i < BATCH; i++) {
            var contents: array<f32, PER>;
            for (var j = 0u; j < PER; j++) {
                let content = content_of(p, slots[j]);
                contents[j] = select(content + rates[j] * (batch.values[i] - content), content, rates[j] == 0.0);
                let at = i * PER + j;
                new_masses[j] = batch.keeps[at] * mass_of(p, batch.slots[at]) + batch.weights[at];
            }
            // Reads of the token before are done.
            table_barrier();
            for (var j = 0u; j < PER; j++) {
                let at = i * PER + j;
                put_content(p, slots[j], contents[j], is_rank(p, j) && base + i < end);
                put_mass(p, batch.slots[at], new_masses[j], is_rank(p, j) && base + i + 1u < end);
                slots[j] = batch.slots[at];
                rates[j] = rate_of(batch.weights[at], new_masses[j]);
            }
            table_barrier();
            var sum = 0.0;
            for (var j = 0u; j < PER; j++) {
                let at = i * PER + j;
                let read = batch.read_weights[at] * content_of(p, batch.read_slots[at]);
                sum += select(read, 0.0, batch.read_weights[at] == 0.0);
            }
            wg_sums[(i * RANKS + p.rank) * COLUMNS + p.column] = sum;
        }
        workgroupBarrier();
        for (var i = invocation; i < BATCH * COLUMNS; i += COLUMNS * RANKS) {
            let t = base + i / COLUMNS;
            let e = p.first_column + i % COLUMNS;
            if (t < end && e < params.dim_v) {
                var sum = 0.0;
                for (var rank = 0u; rank < RANKS; rank++) {
                    sum += wg_sums[(i / COLUMNS * RANKS + rank) * COLUMNS + i % COLUMNS];
                }
                let at = head_start(params.o, unit_batch(unit), unit_head(unit)) + t * params.o.token + e;
                if (SUMMED == 1u) {
                    count_load(1u);
                    sum += f32(o[at]);
                }
                count_store(1u);
                o[at] = Out(sum);
            }
        }
        batch = next;
    }

    let ends = span.y <= params.first_token + params.tokens;
    if (params.carried == 1u || !ends) {
        close_table(p, invocation);
        for (var i = invocation; i < SLOTS && p.first_column == 0u; i += COLUMNS * RANKS) {
            store_mass(p, i);
        }
    }
    if (params.carried == 1u && ends && p.first_column == 0u && invocation == 0u) {
        advance_position(unit, sequence, span.y - span.x);
    }
}
