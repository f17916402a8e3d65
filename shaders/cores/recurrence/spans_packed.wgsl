// The batch entry is a row of packed sequences, of any lengths. Their borders lie behind the stored segments in the workspace
// (borders.wgsl), where none exceeds N.
//
// A sequence s from token b on has segments from b / segment + s on in the workspace: those of the sequences before it take no
// more than these. Segments that are left over have no tokens.
override WHOLE: u32 = 0u; // 1: every sequence has one stored segment, whatever its length

fn border(s: u32) -> u32 {
    count_load(1u);
    return bitcast<u32>(segment_at(params.kv_heads * params.stored_segments * params.segment_stride + s));
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

// The tokens of a stored segment and of its sequence. One invocation looks them up for all.
fn span_of(segment: u32, tokens: u32, invocation: u32) -> Span {
    if (invocation == 0u) {
        let s = sequence_of(segment);
        let start = border(s);
        let end = max(border(s + 1u), start);
        let first = start + (segment - first_segment(s, start)) * params.segment;
        wg_sequence = vec4<u32>(s, start, end - start, first);
    }
    let found = workgroupUniformLoad(&wg_sequence);
    return Span(found.x, found.y, found.z, found.w, min(found.w + params.segment, found.y + found.z));
}

// The stored segments of a carried state, of `unit`: a KV head of a sequence.
fn segments_of(unit: u32) -> Stored {
    let s = unit / params.kv_heads;
    let start = border(s);
    let tokens = max(border(s + 1u), start) - start;
    let count = select((tokens + params.segment - 1u) / params.segment, 1u, WHOLE == 1u);
    return Stored(s, unit % params.kv_heads, params.read_page + first_segment(s, start), count, tokens);
}
