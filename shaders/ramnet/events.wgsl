// Events of a tile: a token writes K slots, then reads K. A key is the slot, then the number of the event within the
// tile; sorted, events of a slot are a run, in time.
//
// A run is cut into chunks of so many events from its start on, so that what comes out of an event depends on those of
// its slot before it and on nothing else. A chunk belongs to the place that it starts in, of places as long as a chunk:
// no two whole chunks start in one, and those of a run start in places one after another.
const BITS: u32 = 11u;
const EVENTS: u32 = 2048u; // of a tile at most
const PIECE: u32 = 32u;    // events of a place where contents are walked

fn tile_events(tile: u32) -> u32 {
    return min(params.tile_tokens, params.tokens - tile * params.tile_tokens) * 2u * TOPK;
}

// Where events of a tile start, in buffers of one element each.
fn tile_start(unit: u32, tile: u32) -> u32 {
    return (unit * params.tiles + tile) * params.tile_tokens * 2u * TOPK;
}

// Where those of rates do, behind which come the starts of runs.
fn rates_start(unit: u32, tile: u32) -> u32 {
    let pieces = (params.tile_tokens * 2u * TOPK + PIECE - 1u) / PIECE;
    return tile_start(unit, tile) + (unit * params.tiles + tile) * pieces;
}

fn writes(event: u32) -> bool {
    return event % (2u * TOPK) < TOPK;
}

// Where the first chunk starts in a place of so many events: of the run that came in from `start`, or of another.
fn first_chunk(start: u32, place: u32, length: u32) -> u32 {
    return start + (place * length - start + length - 1u) / length * length;
}
