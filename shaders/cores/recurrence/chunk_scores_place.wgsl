// Where scores are stored that several workgroups read: those of heads of the state that share queries and keys, and of
// column splits. An invocation has four of each of its tokens next to each other, so that all loads and stores are wide.
//
// Scores: [key heads][query heads of each][segments][pairs of chunks][EACH][INVOCATIONS].

// The first vec4 of an invocation's scores of pair `number` of the segment, of as many as a segment has.
fn scores_at(p: Place, number: u32, invocation: u32) -> u32 {
    let chunks = (params.segment + CHUNK - 1u) / CHUNK;
    let head = (p.kv / params.share - params.first_unit) * p.group + p.head_split;
    let segment = head * params.segments + p.segment - params.first_segment;
    return (segment * (chunks * (chunks + 1u) / 2u) + number) * EACH * INVOCATIONS + invocation;
}
