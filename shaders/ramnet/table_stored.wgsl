// A table in the memory itself, for more slots than workgroup memory holds. The masses, which all columns need, are a copy of
// the workgroup's own.
@group(0) @binding(MASSES_BINDING) var<storage, read_write> masses: array<f32>; // [memories][blocks of columns][SLOTS]

fn table_barrier() {
    storageBarrier();
    workgroupBarrier();
}

fn content_at(p: Place, slot: u32) -> u32 {
    return (p.loads * SLOTS + slot) * params.dim_v + p.first_column + p.column;
}

fn content_of(p: Place, slot: u32) -> f32 {
    count_load(1u);
    return bitcast<f32>(memory[content_at(p, slot)]);
}

fn put_content(p: Place, slot: u32, content: f32, exists: bool) {
    if (exists && p.is_inside) {
        count_store(1u);
        memory[content_at(p, slot)] = bitcast<u32>(content);
    }
}

fn mass_at(p: Place, slot: u32) -> u32 {
    return (p.loads * params.mass_copies + p.first_column / COLUMNS) * SLOTS + slot;
}

fn mass_of(p: Place, slot: u32) -> f32 {
    count_load(1u);
    return masses[mass_at(p, slot)];
}

fn put_mass(p: Place, slot: u32, mass: f32, exists: bool) {
    if (exists && p.column == 0u) {
        count_store(1u);
        masses[mass_at(p, slot)] = mass;
    }
}

// Initialises the memory of a sequence that starts here. The caller provides the barrier.
fn open_table(p: Place, is_new: bool, invocation: u32) {
    if (!is_new) {
        return;
    }
    for (var i = invocation; i < SLOTS; i += COLUMNS * RANKS) {
        count_store(1u);
        masses[mass_at(p, i)] = params.initial;
    }
    for (var i = invocation; i < SLOTS * COLUMNS; i += COLUMNS * RANKS) {
        let e = p.first_column + i % COLUMNS;
        if (e < params.dim_v) {
            count_store(1u);
            memory[(p.loads * SLOTS + i / COLUMNS) * params.dim_v + e] = 0u;
        }
    }
}

// The contents are in the memory already.
fn close_table(p: Place, invocation: u32) {
}
