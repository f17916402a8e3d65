// Events of a block: each token writes K slots, then reads K. The key of an event is its slot, then its number within the
// block. After sorting by key, the events of one slot form a run in time order.
//
// A run is cut into chunks of PIECE events from its start, so that the result of an event depends only on the earlier events
// of its slot. The sorted events are divided into pieces of PIECE, and a chunk belongs to the piece it starts in. No two whole
// chunks start in the same piece, and the chunks of a run start in consecutive pieces.
const BITS: u32 = 15u;
const EVENTS: u32 = 32768u; // maximum number of events per block
const PIECE: u32 = 32u;     // events per piece

fn block_events() -> u32 {
    return params.tokens * 2u * TOPK;
}

// First event of a unit, in buffers with one element per event.
fn block_start(unit: u32) -> u32 {
    return unit * params.tiles * params.tile_tokens * 2u * TOPK;
}

// Events of a tile, which one workgroup sorts.
fn tile_events(tile: u32) -> u32 {
    return min(params.tile_tokens, params.tokens - tile * params.tile_tokens) * 2u * TOPK;
}

// First event of a tile, within its block.
fn tile_start(tile: u32) -> u32 {
    return tile * params.tile_tokens * 2u * TOPK;
}

fn writes(event: u32) -> bool {
    return event % (2u * TOPK) < TOPK;
}

// Weight of an event. The share of the mass that a write keeps is 2 K further.
fn weight_at(unit: u32, event: u32) -> u32 {
    return (unit * params.tiles * params.tile_tokens + event / (2u * TOPK)) * 3u * TOPK + event % (2u * TOPK);
}

fn mass_at(unit: u32, slot: u32) -> u32 {
    return params.mass_at + unit_memory(unit) * SLOTS + slot;
}
