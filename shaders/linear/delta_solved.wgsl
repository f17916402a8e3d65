// The place where delta_prepare.wgsl stores what it solves of a chunk, [KV heads][segments of a step] times: CHUNK rows of KEPT4
// and REMOVED4 vec4s; what is left of each token's write at the end of the chunk, [CHUNK]; a vec4 with the log decay of the
// whole chunk, and a mark.
// Prelude constants: KEPT4 and REMOVED4.
const SOLVED4: u32 = KEPT4 + REMOVED4;
const LEFT_AT: u32 = CHUNK * SOLVED4;
const MARK_AT: u32 = LEFT_AT + CHUNK / 4u;

// First vec4 of a chunk.
fn chunk_start(p: Place) -> u32 {
    let segments = params.end - params.first;
    return (p.kv * segments + p.segment - params.first) * (MARK_AT + 1u);
}
