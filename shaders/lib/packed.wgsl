// Packed sequences of any lengths, cut into segments. The kernel has their borders (border_at), where none exceeds N.
//
// A sequence s from token b on has segments from b / segment + s on in the workspace: those of the sequences before it take no
// more than these. Segments that are left over have no tokens.
override WHOLE: u32 = 0u; // 1: every sequence has one stored segment, whatever its length

fn border(s: u32) -> u32 {
    count_load(1u);
    return border_at(s);
}

// First stored segment of sequence s, which starts at `start`.
fn first_segment(s: u32, start: u32) -> u32 {
    return select(start / params.segment, 0u, WHOLE == 1u) + s;
}

// The sequence that a stored segment belongs to: the last one whose first segment is not behind it.
fn sequence_of(segment: u32) -> u32 {
    var low = select(0u, segment, WHOLE == 1u);
    var high = select(params.sequences, segment + 1u, WHOLE == 1u);
    while (high - low > 1u) {
        let middle = low + (high - low) / 2u;
        if (first_segment(middle, border(middle)) <= segment) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

var<workgroup> wg_sequence: vec4<u32>;

// The place of a stored segment: its sequence, first token and length of the sequence, first token of the segment. One invocation
// looks it up for all.
fn packed_segment(segment: u32, invocation: u32) -> vec4<u32> {
    if (invocation == 0u) {
        let s = sequence_of(segment);
        let start = border(s);
        let end = max(border(s + 1u), start);
        wg_sequence = vec4<u32>(s, start, end - start, start + (segment - first_segment(s, start)) * params.segment);
    }
    return workgroupUniformLoad(&wg_sequence);
}

// The number of stored segments of a sequence of so many tokens.
fn segments_in(tokens: u32) -> u32 {
    return select((tokens + params.segment - 1u) / params.segment, 1u, WHOLE == 1u);
}
