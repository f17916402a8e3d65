// What a workgroup of the segment and output kernels works on. A variant brings span_of(segment, tokens, invocation), the
// tokens of a stored segment, and segments_of(unit), the stored segments of a carried state.

// A decoded workgroup index. The column split varies fastest, so that neighbouring workgroups read the same tokens.
struct Place {
    split: u32,      // column split
    head_split: u32,
    segment: u32,
    kv: u32,         // batch * G + KV head
    b: u32,          // batch and KV head; divisions by uniforms are too slow to repeat for each tile
    g: u32,
    group: u32,      // query heads per KV head
    key_head: u32,   // head of k
    span: Span,
}

// `tokens` is the length of a sequence that is not packed.
fn place(index: u32, tokens: u32, invocation: u32) -> Place {
    var p: Place;
    var rest = index;
    p.split = rest % params.col_splits;
    rest = rest / params.col_splits;
    p.head_split = rest % params.head_splits;
    rest = rest / params.head_splits;
    p.segment = params.first_segment + rest % params.segments;
    p.kv = rest / params.segments;
    p.b = p.kv / params.kv_heads;
    p.g = p.kv % params.kv_heads;
    p.group = params.heads / params.kv_heads;
    p.key_head = key_head(p.g);
    p.span = span_of(p.segment, tokens, invocation);
    return p;
}

// The place of a workgroup, which all its invocations share.
fn shared_place(p: Place) -> Place {
    return Place(
        same_in_workgroup(p.split),
        same_in_workgroup(p.head_split),
        same_in_workgroup(p.segment),
        same_in_workgroup(p.kv),
        same_in_workgroup(p.b),
        same_in_workgroup(p.g),
        same_in_workgroup(p.group),
        same_in_workgroup(p.key_head),
        p.span,
    );
}

// The head of q that query head r of a KV head reads; of the last one if there are fewer. Heads of the state that share a head
// of q and k have one query head each.
fn query_head(p: Place, r: u32) -> u32 {
    return select(p.g * p.group + min(r, p.group - 1u), p.key_head, params.share > 1u);
}
