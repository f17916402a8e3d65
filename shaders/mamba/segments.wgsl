// Every batch entry is one sequence. Its segments follow each other in the workspace.

fn segment_of(segment: u32, batch: u32, invocation: u32) -> Segment {
    let first = segment * params.segment;
    return Segment(first, min(first + params.segment, params.length));
}

// The stored segments of a sequence: the first, and their number.
fn segments_of(sequence: u32) -> vec2<u32> {
    return vec2<u32>(sequence * params.stored, params.segments);
}
