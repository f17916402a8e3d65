// The batch entry is a row of packed sequences (lib/packed.wgsl). Their borders lie behind the states of segments.

fn border_at(s: u32) -> u32 {
    return bitcast<u32>(states[params.stored * params.channels * params.states + s]);
}

fn segment_of(segment: u32, batch: u32, invocation: u32) -> Segment {
    let found = packed_segment(segment, invocation);
    return Segment(found.w, min(found.w + params.segment, found.y + found.z));
}

// The stored segments of a sequence: the first, and their number.
fn segments_of(sequence: u32) -> vec2<u32> {
    let start = border(sequence);
    return vec2<u32>(first_segment(sequence, start), segments_in(max(border(sequence + 1u), start) - start));
}
