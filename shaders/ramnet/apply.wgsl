// Applies the first chunk of every run to the content of its slot. For later chunks it computes the rates, and, if more of the
// run follows, the effect on any content.
// Grid: blocks of columns, groups of pieces, units. Reads keys, weights, v; reads and writes rates, memory, carries; writes
// contributions.
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // [units][block tokens][3 K]

var<workgroup> wg_kept: array<f32, PER * PIECE>; // share of the mass that the events of later chunks keep

// Loads the weights of the later chunk in a piece, in place of the rates that do not exist yet. The caller provides the barrier.
fn load_weights(p: Place, chunk: u32, column: u32) {
    for (var i = column; i < PIECE && slot_of(p, chunk + i) == slot_of(p, chunk); i += COLUMNS) {
        let event = key_of(p, chunk + i) % EVENTS;
        let at = weight_at(p.unit, event);
        count_load(1u);
        let weight = weights[at];
        var kept = 1.0;
        if (writes(event) && weight != 0.0) {
            count_load(1u);
            kept = weights[at + 2u * TOPK];
        }
        wg_rates[p.local * REACH + chunk + i] = weight;
        wg_kept[p.local * PIECE + i] = kept;
    }
}

// Computes the rates of the later chunk in a piece. The first block of columns also stores them, and the mass where the run ends.
fn rate_chunk(p: Place, chunk: u32) {
    let slot = slot_of(p, chunk);
    var mass = before_chunk(p, chunk, params.dim_v + MASS_KEPT, params.dim_v + MASS_ADDED);
    var i = 0u;
    while (i < PIECE && slot_of(p, chunk + i) == slot) {
        let at = p.local * REACH + chunk + i;
        var rate = wg_rates[at];
        if (writes(key_of(p, chunk + i) % EVENTS) && rate != 0.0) {
            mass = wg_kept[p.local * PIECE + i] * mass + rate;
            rate /= mass + params.mass_eps;
            wg_rates[at] = rate;
        }
        if (p.e == 0u) {
            count_store(1u);
            rates[p.start + p.piece * PIECE + chunk + i] = rate;
        }
        i++;
    }
    if (p.e == 0u && slot_of(p, chunk + i) != slot) {
        count_store(1u);
        memory[mass_at(p.unit, slot)] = mass;
    }
}

@compute @workgroup_size(COLUMNS * PER)
fn ramnet_apply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let p = place_of(index, invocation);
    for (var i = invocation; i < PER * SPAN; i += COLUMNS * PER) {
        load_key(p, i / SPAN, i % SPAN);
    }
    let any_later = any_came_in(p, invocation);
    for (var i = invocation; i < PER * REACH; i += COLUMNS * PER) {
        // Behind the piece, only what belongs to its last run.
        let key = i / REACH * SPAN + 1u + i % REACH;
        if (i % REACH < PIECE || wg_keys[key] >> BITS == wg_keys[i / REACH * SPAN + PIECE] >> BITS) {
            load_rate(p, i / REACH, i % REACH);
        }
    }
    workgroupBarrier();
    var later = REACH;
    if (any_later) {
        later = chunk_of_run(p);
        if (later != REACH) {
            load_weights(p, later, invocation % COLUMNS);
        }
        workgroupBarrier();
        if (later != REACH && invocation % COLUMNS == 0u) {
            rate_chunk(p, later);
        }
        workgroupBarrier();
    }
    if (p.piece >= params.pieces || p.e >= params.dim_v) {
        return;
    }
    var first = 0u;
    let goes_through = later != REACH && goes_on(p, later);
    if (goes_through) {
        // The whole piece belongs to one run.
        first = later;
    } else {
        while (first < PIECE && key_of(p, first) != 0xffffffffu && !is_start(p, first)) {
            first++;
        }
    }
    if (goes_through || first < PIECE) {
        walk(p, first, 0.0, !goes_through, !goes_through, true);
    }
}
