// Parameters of one recording of a recurrence. Same layout as `Params` in src/cores/recurrence/mod.rs; a test compares them.
struct Params {
    grid: Grid,
    queries: u32,        // N
    keys: u32,           // M
    heads: u32,          // H
    kv_heads: u32,       // G
    dim_k: u32,          // D
    dim_v: u32,          // E
    rows: u32,           // rows of the state, the width of the features
    segment: u32,        // tokens per segment in this step
    segments: u32,       // segments in this step
    col_splits: u32,     // workgroups that share the columns of a state
    head_splits: u32,    // workgroups that share the query heads of one KV head
    segment_stride: u32, // from one segment to the next: state_len, the log decay and running maxima it passes on, padding
    norm_offset: u32,     // first element of `norm` in the packed state
    scale: f32,
    norm_eps: f32,
    stored_segments: u32, // segments in the workspace
    state_len: u32,       // elements per state: rows E, plus rows if normalised
    share: u32,           // KV heads of the state per head of q and k: 1, or H / G for ssd
    extra_state: u32,     // first element in the carried state of the positions or running maxima, which follow the sums
    sequences: u32,       // S, packed sequences
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
    g: Strides,           // strides of the decay's tensor
    beta: Strides,        // strides of beta (delta rules)
    q_factor: Strides,    // strides of the factors of q and k, if there are any
    k_factor: Strides,
    first: u32,           // steps over some tokens: from first up to end (exclusive)
    end: u32,
    read_page: u32,       // without a scan between passes: stored segments to start from and, in several dispatches, to write to
    write_page: u32,
    first_unit: u32,      // stored features: the first head of k, numbered over all batch entries, and where queries start
    query_features: u32,
    first_segment: u32,   // first segment of this step
    _pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

override NORMALIZE: u32 = 1u;  // 1: also keep the sums of features
override TRANSPOSED: u32 = 0u; // 1: the carried state is stored column by column

// Offset of row d, column e within one matrix of the carried state.
fn initial_state_at(d: u32, e: u32) -> u32 {
    return select(d * params.dim_v + e, e * params.rows + d, TRANSPOSED == 1u);
}

// First of the two words of the position of a sequence, of which every KV head has one of its own.
fn position_at(kv: u32, sequence: u32) -> u32 {
    return params.extra_state + 2u * (kv * max(params.sequences, 1u) + sequence);
}

// Tokens of a sequence, and those of one of its stored segments.
struct Span {
    sequence: u32,
    start: u32,  // first token of the sequence
    length: u32, // tokens of the sequence
    first: u32,  // first token of the segment, and the one after its last
    end: u32,
}

// Stored segments that a carried state is summed over.
struct Stored {
    sequence: u32,
    kv: u32,
    first: u32,
    count: u32,
    tokens: u32, // tokens of the sequence
}

// The head of q and k that a KV head of the state reads.
fn key_head(g: u32) -> u32 {
    return g / params.share;
}
