// Events of a tile: each token writes K slots, then reads K. The key of an event is its slot, then its number within the
// tile. After sorting by key, the events of one slot form a run in time order.
//
// A run is cut into chunks of a fixed length from its start, so that the result of an event depends only on the earlier
// events of its slot. A tile is divided into places as long as a chunk, and a chunk belongs to the place it starts in. No two
// whole chunks start in the same place, and the chunks of a run start in consecutive places.
const BITS: u32 = 11u;
const EVENTS: u32 = 2048u; // maximum number of events per tile
const PIECE: u32 = 32u;    // events per piece, the places used for contents

fn tile_events(tile: u32) -> u32 {
    return min(params.tile_tokens, params.tokens - tile * params.tile_tokens) * 2u * TOPK;
}

// First event of a tile, in buffers with one element per event.
fn tile_start(unit: u32, tile: u32) -> u32 {
    return (unit * params.tiles + tile) * params.tile_tokens * 2u * TOPK;
}

// Pieces of a full tile.
fn tile_pieces() -> u32 {
    return (params.tile_tokens * 2u * TOPK + PIECE - 1u) / PIECE;
}

// First rate of a tile. In that buffer the starts of runs follow the rates of each tile, and then whether a run is longer than a
// piece.
fn rates_start(unit: u32, tile: u32) -> u32 {
    return tile_start(unit, tile) + (unit * params.tiles + tile) * (tile_pieces() + 1u);
}

fn writes(event: u32) -> bool {
    return event % (2u * TOPK) < TOPK;
}

// Start of the first chunk in a place, if the run that reaches into the place started at `start`.
fn first_chunk(start: u32, place: u32, length: u32) -> u32 {
    return start + (place * length - start + length - 1u) / length * length;
}
