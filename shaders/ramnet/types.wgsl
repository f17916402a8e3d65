// What is fixed for a recording. Twin of `Params` in src/ops/ramnet/layout.rs; tests compare them.
struct Params {
    grid: Grid,
    heads: u32,        // H
    units: u32,        // memories of this step: batch and head
    first_unit: u32,   // the first of them
    memory_first: u32, // the first one in the buffer of memories
    first_token: u32,  // of the block
    tokens: u32,       // of the block
    tile: u32,         // of the block: what this step walks
    tiles: u32,        // of the block
    tile_tokens: u32,  // of a tile, but for the last of a block
    dim_v: u32,        // E
    mass_at: u32,      // where masses start in the buffer of memories
    position_at: u32,  // and positions, two words each
    advance: u32,      // tokens that the last step adds to the position
    tau: f32,
    mass_eps: f32,
    initial: f32,      // mass in the beginning
    q: Strides,
    k: Strides,
    v: Strides,
    gamma: Strides,
    o: Strides,
    cape: array<vec4<u32>, 8>, // a bit for each head
}

@group(0) @binding(0) var<uniform> params: Params;

// Consts of the prelude, everywhere: TOPK K, SLOTS P^U.

fn unit_batch(unit: u32) -> u32 {
    return (params.first_unit + unit) / params.heads;
}

fn unit_head(unit: u32) -> u32 {
    return (params.first_unit + unit) % params.heads;
}

// Which memory of the buffer is this unit's.
fn unit_memory(unit: u32) -> u32 {
    return params.first_unit + unit - params.memory_first;
}

fn has_cape(head: u32) -> bool {
    return ((params.cape[head / 128u % 8u][head / 32u % 4u] >> (head % 32u)) & 1u) == 1u;
}

// By how many slots the t-th token of the run turns addresses down, from the carried position (low word, high word).
fn cape_shift(low: u32, high: u32, t: u32) -> u32 {
    let word = (0xffffffffu % SLOTS + 1u) % SLOTS; // 2^32
    let position = (high % SLOTS * word % SLOTS + low % SLOTS) % SLOTS;
    return (position + t % SLOTS) % SLOTS;
}

fn turned(address: u32, shift: u32) -> u32 {
    return select(address + SLOTS - shift, address - shift, address >= shift);
}
