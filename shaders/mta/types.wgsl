// What is fixed for a recording. Twin of `Params` in src/ops/mta/layout.rs; tests compare them.
struct Params {
    grid: Grid,
    queries: u32,      // N
    keys: u32,         // M
    heads: u32,        // H
    kv_heads: u32,     // G
    dim_k: u32,        // D
    dim_v: u32,        // E
    tail: u32,         // queries of q_tail
    rows_before: u32,  // of them, those whose maxima and sums are kept
    pre_queries: u32,  // cq before the softmax; 1 without a kernel, and so below
    pre_keys: u32,     // ck before it
    post_queries: u32, // cq after it
    post_keys: u32,    // ck after it
    kq_pre: u32,       // where weights start in their buffer
    kq_post: u32,
    head_pre: u32,
    head_post: u32,
    norm: u32,
    gate_weight: u32,
    gate_bias: u32,
    batch_units: u32,  // units of a batch entry: one where heads are mixed, else key heads
    unit_heads: u32,   // query heads of a unit
    group: u32,        // heads whose weights are mixed, or all of a unit
    head_blocks: u32,  // workgroups that share the heads of a unit
    row_blocks: u32,   // workgroups along the queries
    col_splits: u32,   // workgroups that share the columns of the values
    scale: f32,        // of the scores
    factor: f32,       // of the norm
    norm_eps: f32,     // added to its mean square
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;
