// Updates the masses of the slots that a block touches, tile by tile, and computes what each event does: the rate of a write,
// the weight of a read. An event maps the mass m to keep m + add; these maps compose. One invocation per chunk of 8 events.
// Grid: units. Reads events, weights; reads and writes memory; writes rates.
@group(0) @binding(EVENTS_BINDING) var<storage, read> events: array<u32>; // [units][tiles][tile events]: keys, sorted
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // [units][tiles][tile tokens][3 K]
@group(0) @binding(MEMORY_BINDING) var<storage, read_write> memory: array<f32>; // masses
@group(0) @binding(RATES_BINDING) var<storage, read_write> rates: array<f32>; // as events, then the start of each piece's first
// run, then 1 if a run is longer than a piece

const CHUNK: u32 = 8u;
var<workgroup> wg_keys: array<u32, SORT + 1u>;
var<workgroup> wg_is_long: atomic<u32>;  // 1 if a run of the tile is longer than a piece
var<workgroup> wg_keep: array<f32, 256>; // effect of the whole chunk that starts in a place
var<workgroup> wg_add: array<f32, 256>;  // likewise; for a run's first chunk the mass after it

struct Where {
    start: u32,  // first event of the tile
    rates: u32,
    count: u32,
    masses: u32, // first mass of the unit
}

fn slot_at(i: u32) -> u32 {
    return wg_keys[i] >> BITS;
}

// Start of the run that the i-th event belongs to.
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

// Effect of the i-th event on the mass (keep, add), and its weight.
fn effect(w: Where, i: u32) -> vec3<f32> {
    let event = wg_keys[i] % EVENTS;
    // A token has 3 K numbers: the weights of its 2 K events, then K retentions.
    let at = w.start / 2u * 3u + event + event / (2u * TOPK) * TOPK;
    count_load(1u);
    let weight = weights[at];
    if (!writes(event) || weight == 0.0) {
        return vec3<f32>(1.0, 0.0, weight);
    }
    count_load(1u);
    return vec3<f32>(weights[at + 2u * TOPK], weight, weight);
}

// Applies a chunk to the mass `before`: writes rates and, where the run ends, the mass. Returns the mass after the chunk.
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

// Processes one tile. Starts with a barrier, because masses carry over from tile to tile.
fn walk_tile(unit: u32, tile: u32, invocation: u32) {
    var w: Where;
    w.start = tile_start(unit, tile);
    w.rates = rates_start(unit, tile);
    w.count = tile_events(tile);
    w.masses = params.mass_at + unit_memory(unit) * SLOTS;
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
    if (invocation == 0u) {
        atomicStore(&wg_is_long, 0u);
    }
    workgroupBarrier();

    let first = invocation * CHUNK;
    var start = first;
    var next = w.count; // the chunk that starts here, of a run that started earlier
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
            if (slot_at(min(i + PIECE, SORT)) == slot_at(i)) {
                atomicStore(&wg_is_long, 1u);
            }
            if (i == start || slot_at(i - min(i, 1u)) != slot_at(i)) {
                count_load(1u);
                let mass = walk_chunk(w, i, memory[w.masses + slot_at(i)]);
                if (slot_at(min(i + CHUNK, SORT)) == slot_at(i)) {
                    wg_add[invocation] = mass;
                }
            }
        }
        // Effect of the chunk of the earlier run, if more of the run follows.
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
    if (invocation == 0u) {
        count_store(1u);
        rates[w.rates + params.tile_tokens * 2u * TOPK + tile_pieces()] = f32(atomicLoad(&wg_is_long));
    }
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
