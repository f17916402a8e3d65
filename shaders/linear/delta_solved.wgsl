// Where delta_prepare.wgsl stores what it solves of a chunk: [KV heads][segments of a step] times CHUNK rows of SOLVED4 vec4s and one
// more. Prelude constants: KEPT4 and REMOVED4.
const SOLVED4: u32 = KEPT4 + REMOVED4;

// First vec4 of a chunk.
fn chunk_start(p: Place) -> u32 {
    let segments = params.end - params.first;
    return (p.kv * segments + p.segment - params.first) * (CHUNK * SOLVED4 + 1u);
}
