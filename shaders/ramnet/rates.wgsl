// Masses of the slots that a block touches, tile after tile, and what its sorted events do with them: a write its rate,
// a read its weight. The mass goes through m -> keep m + add, which compose: chunks of 8 events, an invocation each.
// Grid: units. Reads events, weights, gamma; reads and writes memory; writes rates.
@group(0) @binding(1) var<storage, read> events: array<u32>;         // [units][tiles][tile events]: keys, sorted
@group(0) @binding(2) var<storage, read> weights: array<f32>;        // by number of the event
@group(0) @binding(3) var<storage, read> gamma: array<Elem>;         // B H N
@group(0) @binding(4) var<storage, read_write> memory: array<f32>;   // masses
@group(0) @binding(5) var<storage, read_write> rates: array<f32>;    // as events, then where each piece's first run starts

const CHUNK: u32 = 8u;
var<workgroup> wg_keys: array<u32, SORT + 1u>;
var<workgroup> wg_keep: array<f32, 256>; // of the whole chunk that starts in a place
var<workgroup> wg_add: array<f32, 256>;  // likewise; of a run's first the mass itself

struct Where {
    start: u32,  // of the tile's events
    rates: u32,
    count: u32,
    masses: u32, // of the unit
    gammas: u32,
    token: u32,  // the first of the tile
}

fn slot_at(i: u32) -> u32 {
    return wg_keys[i] >> BITS;
}

// Where the run starts that the i-th event is of.
fn run_start(i: u32) -> u32 {
    var low = 0u;
    var high = i;
    while (low < high) {
        let mid = (low + high) / 2u;
        if (slot_at(mid) < slot_at(i)) {
            low = mid + 1u;
        } else {
            high = mid;
        }
    }
    return low;
}

// What the i-th event does to the mass (keep, add), and its weight.
fn effect(w: Where, i: u32) -> vec3<f32> {
    let event = wg_keys[i] % EVENTS;
    count_load(1u);
    let weight = weights[w.start + event];
    if (!writes(event) || weight == 0.0) {
        return vec3<f32>(1.0, 0.0, weight);
    }
    let n = w.token + event / (2u * TOPK);
    count_load(1u);
    return vec3<f32>(retention(weight, f32(gamma[w.gammas + n * params.gamma.token])), weight, weight);
}

// Walks a chunk from this mass, writing rates and, where the run ends, the mass; gives the mass behind it.
fn walk_chunk(w: Where, first: u32, before: f32) -> f32 {
    let slot = slot_at(first);
    var mass = before;
    for (var i = first; i < first + CHUNK && slot_at(min(i, SORT)) == slot; i++) {
        let e = effect(w, i);
        var rate = e.z;
        if (e.y != 0.0) {
            mass = e.x * mass + e.y;
            rate /= mass + params.mass_eps;
        }
        count_store(1u);
        rates[w.rates + i] = rate;
        if (slot_at(i + 1u) != slot) {
            count_store(1u);
            memory[w.masses + slot] = mass;
        }
    }
    return mass;
}

// Of one tile. Barriers before and behind, since masses go on from tile to tile.
fn walk_tile(unit: u32, tile: u32, invocation: u32) {
    var w: Where;
    w.start = tile_start(unit, tile);
    w.rates = rates_start(unit, tile);
    w.count = tile_events(tile);
    w.masses = params.mass_at + unit_memory(unit) * SLOTS;
    w.gammas = head_start(params.gamma, unit_batch(unit), unit_head(unit));
    w.token = params.first_token + tile * params.tile_tokens;
    storageBarrier();
    workgroupBarrier();
    for (var i = invocation; i <= SORT; i += 256u) {
        var key = 0xffffffffu;
        if (i < w.count) {
            count_load(1u);
            key = events[w.start + i];
        }
        wg_keys[i] = key;
    }
    workgroupBarrier();

    let first = invocation * CHUNK;
    var start = first;
    var next = w.count; // the chunk of a run that came in, if one starts here
    if (first < w.count) {
        start = run_start(first);
        let chunk = first_chunk(start, invocation, CHUNK);
        if (first % PIECE == 0u) {
            count_store(1u);
            rates[w.rates + params.tile_tokens * 2u * TOPK + first / PIECE] = f32(start);
        }
        if (start < first && slot_at(min(chunk, SORT)) == slot_at(first)) {
            next = chunk;
        }
        // Runs that start here.
        for (var i = first; i < min(first + CHUNK, w.count); i++) {
            if (i == start || slot_at(i - min(i, 1u)) != slot_at(i)) {
                count_load(1u);
                let mass = walk_chunk(w, i, memory[w.masses + slot_at(i)]);
                if (slot_at(min(i + CHUNK, SORT)) == slot_at(i)) {
                    wg_add[invocation] = mass;
                }
            }
        }
        // What the one that came in does, if there is more of it.
        if (next < w.count && slot_at(min(next + CHUNK, SORT)) == slot_at(next)) {
            var keep = 1.0;
            var add = 0.0;
            for (var i = next; i < next + CHUNK; i++) {
                let e = effect(w, i);
                keep *= e.x;
                add = e.x * add + e.y;
            }
            wg_keep[invocation] = keep;
            wg_add[invocation] = add;
        }
    }
    workgroupBarrier();
    if (next < w.count) {
        let origin = start / CHUNK;
        var mass = wg_add[origin];
        for (var i = 1u; i < (next - start) / CHUNK; i++) {
            mass = wg_keep[origin + i] * mass + wg_add[origin + i];
        }
        _ = walk_chunk(w, next, mass);
    }
}

@compute @workgroup_size(256)
fn ramnet_rates(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let unit = group_index(params.grid, group, groups);
    if (unit >= params.grid.end) {
        return;
    }
    for (var tile = 0u; tile < params.tiles; tile++) {
        walk_tile(unit, tile, invocation);
    }
}
