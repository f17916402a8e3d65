// Every batch entry is one sequence. Its segments follow each other in the workspace.

// The tokens of a stored segment, of a sequence of `tokens` tokens.
fn span_of(segment: u32, tokens: u32, invocation: u32) -> Span {
    let first = segment * params.segment;
    return Span(0u, 0u, tokens, first, min(first + params.segment, tokens));
}

// The stored segments of a carried state, of `unit`.
fn segments_of(unit: u32) -> Stored {
    return Stored(0u, unit, params.read_page, params.segments, params.queries);
}

// First token of a sequence.
fn sequence_start(sequence: u32) -> u32 {
    return 0u;
}
