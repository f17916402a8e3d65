// Parameters of one recording of mta. Same layout as `Params` in src/ops/mta/layout.rs; a test compares them.
struct Params {
    grid: Grid,
    queries: u32,      // N
    keys: u32,         // M
    heads: u32,        // H
    kv_heads: u32,     // G
    dim_k: u32,        // D
    dim_v: u32,        // E
    tail: u32,         // queries in q_tail
    rows_before: u32,  // rows of q_tail whose maxima and sums are stored
    pre_queries: u32,  // cq before the softmax; these four are 1 without a kernel
    pre_keys: u32,     // ck before the softmax
    post_queries: u32, // cq after the softmax
    post_keys: u32,    // ck after the softmax
    kq_pre: u32,       // start of each tensor in the weights, up to gate_bias
    kq_post: u32,
    head_pre: u32,
    head_post: u32,
    norm: u32,
    gate_weight: u32,
    gate_bias: u32,
    group: u32,        // heads whose weights are mixed after the softmax; all of them if none are
    head_blocks: u32,  // workgroups that share the heads of a batch entry
    row_blocks: u32,   // workgroups along the queries
    col_splits: u32,   // workgroups that share the value columns
    splits: u32,       // workgroups that share the keys
    split_keys: u32,   // keys of each of them
    scale: f32,        // factor of the scores
    factor: f32,       // factor of the norm
    norm_eps: f32,     // added to the norm's mean square
    shift: i32,        // position of query 0 among the keys
    pad: u32,
    pads: vec2<u32>,
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;
