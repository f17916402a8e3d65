// Parameters of one recording of ramnet. Same layout as `Params` in src/ops/ramnet/layout.rs; a test compares them.
struct Params {
    grid: Grid,
    heads: u32,        // H
    units: u32,        // memories in this step, one per batch entry and head
    first_unit: u32,   // first unit of this step
    memory_first: u32, // unit of the first memory in the buffer
    first_token: u32,  // first token of the block
    tokens: u32,       // tokens in the block
    tiles: u32,        // tiles in the block
    tile_tokens: u32,  // tokens per tile; the last tile of a block may have fewer
    pieces: u32,       // pieces of a memory's sorted events in the block
    dim_v: u32,        // E
    mass_at: u32,      // first mass in the buffer of memories
    position_at: u32,  // first position in it, two words each
    advance: u32,      // tokens that the last step adds to each position
    tau: f32,
    mass_eps: f32,
    initial: f32,      // initial mass
    length: u32,       // N
    sequences: u32,    // packed sequences of a batch entry; 1 if it is one sequence
    carried: u32,      // 1 if the memory is a carried state
    memories: u32,     // memories in the buffer
    memory_step: u32,  // memories from one packed sequence to the next
    load_at: u32,      // first memory at the start of a block, where tokens are taken in order
    store_at: u32,     // first memory at its end
    mass_copies: u32,  // copies of the masses of each memory that the block starts with
    q: Strides,
    k: Strides,
    v: Strides,
    gamma: Strides,
    o: Strides,
    cape: array<vec4<u32>, 8>, // one bit per head
}

@group(0) @binding(0) var<uniform> params: Params;

// Prelude constants, in all kernels: TOPK K, SLOTS P^U.

fn unit_batch(unit: u32) -> u32 {
    return (params.first_unit + unit) / params.heads;
}

fn unit_head(unit: u32) -> u32 {
    return (params.first_unit + unit) % params.heads;
}

// Index in the buffer of this unit's memory.
fn unit_memory(unit: u32) -> u32 {
    return params.first_unit + unit - params.memory_first;
}

// Index of the low word of the position of a sequence; the high word follows.
fn position_of(unit: u32, sequence: u32) -> u32 {
    return params.position_at + 2u * (unit_memory(unit) * params.sequences + sequence);
}

fn has_cape(head: u32) -> bool {
    return ((params.cape[head / 128u % 8u][head / 32u % 4u] >> (head % 32u)) & 1u) == 1u;
}

// CAPE: the rotation of addresses, in slots, for token t of the run after the carried position (low word, high word).
fn cape_shift(low: u32, high: u32, t: u32) -> u32 {
    let word = (0xffffffffu % SLOTS + 1u) % SLOTS; // 2^32 modulo SLOTS
    let position = (high % SLOTS * word % SLOTS + low % SLOTS) % SLOTS;
    return (position + t % SLOTS) % SLOTS;
}

fn turned(address: u32, shift: u32) -> u32 {
    return select(address + SLOTS - shift, address - shift, address >= shift);
}
