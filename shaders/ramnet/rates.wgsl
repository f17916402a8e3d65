// Applies the first chunk of every run to the mass of its slot, and computes what its events do: the rate of a write, the weight
// of a read. For each later chunk that has more of its run after it, computes its effect on any mass.
// Grid: sections of 512 sorted events, units. Reads keys, weights; reads and writes memory; writes rates, carries.
@group(0) @binding(KEYS_BINDING) var<storage, read> keys: array<u32>; // [units][block events], sorted
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // [units][block tokens][3 K]
@group(0) @binding(MEMORY_BINDING) var<storage, read_write> memory: array<f32>; // masses
@group(0) @binding(RATES_BINDING) var<storage, read_write> rates: array<f32>; // [units][block events], in the order of keys

const OWN: u32 = 4u; // events per invocation; a chunk belongs to the invocation that owns its first event
const SECTION: u32 = 128u * OWN;
const REACH: u32 = SECTION + PIECE; // events that the chunks of a section can contain
var<workgroup> wg_keys: array<u32, PIECE + REACH>; // from PIECE events before the section on
var<workgroup> wg_weights: array<f32, REACH>;
var<workgroup> wg_kept: array<f32, REACH>; // share of the mass that an event keeps; for the first event of a run the mass after it

struct Section {
    unit: u32,
    start: u32, // first event of the unit
    first: u32, // first event of the section, within the block
    count: u32, // events in the block
}

// Loads the i-th key from PIECE before the section on. All ones if there is no such event.
fn load_key(s: Section, i: u32) {
    let at = s.first + i;
    var key = 0xffffffffu;
    if (at >= PIECE && at - PIECE < s.count) {
        count_load(1u);
        key = keys[s.start + at - PIECE];
    }
    wg_keys[i] = key;
}

// Key of the i-th event of the section.
fn key_of(i: u32) -> u32 {
    return wg_keys[PIECE + i];
}

fn slot_of(i: u32) -> u32 {
    return key_of(i) >> BITS;
}

fn is_start(i: u32) -> bool {
    return wg_keys[PIECE + i - 1u] >> BITS != slot_of(i);
}

// What the i-th event adds to the mass.
fn added(i: u32) -> f32 {
    return select(0.0, wg_weights[i], writes(key_of(i) % EVENTS));
}

// Loads what the i-th event does to the mass. All these loads are issued before the events of a run are applied.
fn load_effect(s: Section, i: u32) {
    let event = key_of(i) % EVENTS;
    let at = weight_at(s.unit, event);
    count_load(1u);
    let weight = weights[at];
    wg_weights[i] = weight;
    var kept = 1.0;
    if (writes(event) && weight != 0.0) {
        count_load(1u);
        kept = weights[at + 2u * TOPK];
    }
    if (is_start(i)) {
        count_load(1u);
        kept = kept * memory[mass_at(s.unit, slot_of(i))] + added(i);
    }
    wg_kept[i] = kept;
}

// First event, within the block, of the run that the i-th event of the section belongs to.
fn run_start(s: Section, i: u32) -> u32 {
    let slot = slot_of(i);
    var low = i;
    var high = i + PIECE;
    while (low < high) {
        let mid = (low + high) / 2u;
        if (wg_keys[mid] >> BITS != slot) {
            low = mid + 1u;
        } else {
            high = mid;
        }
    }
    if (low > i) {
        return s.first + low - PIECE;
    }
    // The run is longer than what the workgroup has of it.
    low = 0u;
    high = s.first + i - PIECE;
    while (low < high) {
        let mid = (low + high) / 2u;
        count_load(1u);
        if (keys[s.start + mid] >> BITS < slot) {
            low = mid + 1u;
        } else {
            high = mid;
        }
    }
    return low;
}

// Applies the first chunk of the run that starts at the i-th event.
fn walk(s: Section, i: u32) {
    let slot = slot_of(i);
    var mass = wg_kept[i];
    var written = false;
    var end = i;
    while (end < i + PIECE && slot_of(end) == slot) {
        let add = added(end);
        if (end > i) {
            mass = wg_kept[end] * mass + add;
        }
        count_store(1u);
        rates[s.start + s.first + end] = select(wg_weights[end], add / (mass + params.mass_eps), add != 0.0);
        written |= add != 0.0;
        end++;
    }
    if (slot_of(end) == slot) {
        count_store(1u);
        carries[carry_at(s.unit, (s.first + i) / PIECE) + params.dim_v + MASS_ADDED] = mass;
    } else if (written) {
        count_store(1u);
        memory[mass_at(s.unit, slot)] = mass;
    }
}

@compute @workgroup_size(128)
fn ramnet_rates(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    var s: Section;
    s.count = block_events();
    let sections = (s.count + SECTION - 1u) / SECTION;
    s.unit = index / sections;
    s.start = block_start(s.unit);
    s.first = index % sections * SECTION;
    for (var i = invocation; i < PIECE + REACH; i += 128u) {
        load_key(s, i);
    }
    workgroupBarrier();
    for (var i = invocation; i < REACH; i += 128u) {
        // Behind the section, only what belongs to its last run.
        if (key_of(i) != 0xffffffffu && (i < SECTION || slot_of(i) == slot_of(SECTION - 1u))) {
            load_effect(s, i);
        }
    }
    workgroupBarrier();

    let own = invocation * OWN;
    if (s.first + own >= s.count) {
        return;
    }
    for (var i = own; i < own + OWN; i++) {
        if (key_of(i) != 0xffffffffu && is_start(i)) {
            walk(s, i);
        }
    }

    // The later chunk that starts here or next, if there is one.
    let start = run_start(s, own);
    let chunk = chunk_from(s.first + own, start) - s.first;
    let exists = start < s.first + own && slot_of(chunk) == slot_of(own);
    let carry = carry_at(s.unit, (s.first + chunk) / PIECE) + params.dim_v;
    if ((s.first + own) % PIECE == 0u) {
        count_store(1u);
        carries[carry_at(s.unit, (s.first + own) / PIECE) + params.dim_v + RUN_START] = f32(select(s.first + own, start, exists));
    }
    if (exists && chunk < own + OWN && slot_of(chunk + PIECE) == slot_of(own)) {
        var kept = 1.0;
        var add = 0.0;
        for (var i = chunk; i < chunk + PIECE; i++) {
            kept *= wg_kept[i];
            add = wg_kept[i] * add + added(i);
        }
        count_store(2u);
        carries[carry + MASS_KEPT] = kept;
        carries[carry + MASS_ADDED] = add;
    }
}
