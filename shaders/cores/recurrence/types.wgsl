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
    segment_stride: u32, // elements from one segment to the next: state_len, then the log decay (and running maxima) it passes on
    norm_offset: u32,     // first element of `norm` in the packed state
    scale: f32,
    norm_eps: f32,
    stored_segments: u32, // segments in the workspace
    state_len: u32,       // elements per state: rows E, plus rows if normalised
    share: u32,           // KV heads of the state per head of q and k: 1, or H / G for ssd
    extra_state: u32,     // first element in the carried state of the positions or running maxima, which follow the sums
    first_segment: u32,   // first segment of this step
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
    g: Strides,           // strides of the decay's tensor
    beta: Strides,        // strides of beta (delta rules)
    first: u32,           // steps over some tokens: from first up to end (exclusive)
    end: u32,
    read_page: u32,       // without a scan between passes: stored segments to start from and, in several dispatches, to write to
    write_page: u32,
    first_unit: u32,      // stored features: the first head of k, numbered over all batch entries, and where queries start
    query_features: u32,
    _pad: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;

override NORMALIZE: u32 = 1u;  // 1: also keep the sums of features
override TRANSPOSED: u32 = 0u; // 1: the carried state is stored column by column

// Offset of row d, column e within one matrix of the carried state.
fn initial_state_at(d: u32, e: u32) -> u32 {
    return select(d * params.dim_v + e, e * params.rows + d, TRANSPOSED == 1u);
}

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
}

// The head of q and k that a KV head of the state reads.
fn key_head(g: u32) -> u32 {
    return g / params.share;
}

fn place(index: u32) -> Place {
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
    return p;
}

// The head of q that query head r of a KV head reads; of the last one if there are fewer. Heads of the state that share a head
// of q and k have one query head each.
fn query_head(p: Place, r: u32) -> u32 {
    return select(p.g * p.group + min(r, p.group - 1u), p.key_head, params.share > 1u);
}
