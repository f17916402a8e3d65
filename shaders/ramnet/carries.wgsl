// What chunks of long runs pass on. An event maps the mass m of its slot to keep m + add, and so it does with the content; these
// maps compose. The first chunk of a run that is longer stores the mass and the content after it. Every other chunk with more of
// its run after it stores its effect on any mass and content.
//
// The row of a piece has E numbers that are added to the content, and then those that these constants name, counted from E.
@group(0) @binding(CARRIES_BINDING) var<storage, read_write> carries: array<f32>; // [units][pieces][E + 4]

const CONTENT_KEPT: u32 = 0u;
const MASS_KEPT: u32 = 1u;
const MASS_ADDED: u32 = 2u;
// Start of the run that a later chunk in this piece belongs to; the first event of the piece if it has no such chunk.
const RUN_START: u32 = 3u;

fn carry_at(unit: u32, piece: u32) -> u32 {
    return (unit * params.pieces + piece) * (params.dim_v + 4u);
}

// Start of the first chunk that starts at an event or after it, of the run that this event belongs to.
fn chunk_from(event: u32, start: u32) -> u32 {
    return start + (event - start + PIECE - 1u) / PIECE * PIECE;
}
