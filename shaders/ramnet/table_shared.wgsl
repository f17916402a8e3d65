// A table in workgroup memory: the contents of COLUMNS columns and the masses of all slots. Invocations that have nothing to
// store do so behind the table, each in a place of its own, because a branch takes longer.
@group(0) @binding(MASSES_BINDING) var<storage, read> masses: array<f32>; // [memories][SLOTS]: those at the start of the block

var<workgroup> wg_content: array<f32, SLOTS * COLUMNS + COLUMNS * RANKS>;
var<workgroup> wg_mass: array<f32, SLOTS + COLUMNS * RANKS>;

fn table_barrier() {
    workgroupBarrier();
}

fn content_of(p: Place, slot: u32) -> f32 {
    return wg_content[slot * COLUMNS + p.column];
}

fn put_content(p: Place, slot: u32, content: f32, exists: bool) {
    wg_content[select(SLOTS * COLUMNS + p.invocation, slot * COLUMNS + p.column, exists)] = content;
}

fn mass_of(p: Place, slot: u32) -> f32 {
    return wg_mass[slot];
}

fn put_mass(p: Place, slot: u32, mass: f32, exists: bool) {
    wg_mass[select(SLOTS + p.invocation, slot, exists && p.column == 0u)] = mass;
}

// Fills the table with the memory at the start of the block, or with the initial one. The caller provides the barrier.
fn open_table(p: Place, is_new: bool, invocation: u32) {
    for (var i = invocation; i < SLOTS; i += COLUMNS * RANKS) {
        var mass = params.initial;
        if (!is_new) {
            count_load(1u);
            mass = masses[p.loads * SLOTS + i];
        }
        wg_mass[i] = mass;
    }
    for (var i = invocation; i < SLOTS * COLUMNS; i += COLUMNS * RANKS) {
        let e = p.first_column + i % COLUMNS;
        var content = 0.0;
        if (!is_new && e < params.dim_v) {
            count_load(1u);
            content = bitcast<f32>(memory[(p.loads * SLOTS + i / COLUMNS) * params.dim_v + e]);
        }
        wg_content[i] = content;
    }
}

// Stores the contents in the memory.
fn close_table(p: Place, invocation: u32) {
    for (var i = invocation; i < SLOTS * COLUMNS; i += COLUMNS * RANKS) {
        let e = p.first_column + i % COLUMNS;
        if (e < params.dim_v) {
            count_store(1u);
            memory[(p.stores * SLOTS + i / COLUMNS) * params.dim_v + e] = bitcast<u32>(wg_content[i]);
        }
    }
}
