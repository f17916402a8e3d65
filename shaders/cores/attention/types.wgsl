// Parameters of one recording of tiled attention. Same layout as `Params` in src/cores/attention/mod.rs; a test compares them.
struct Params {
    grid: Grid,
    queries: u32,     // N
    keys: u32,        // M
    heads: u32,       // H
    kv_heads: u32,    // G
    dim_k: u32,       // D
    dim_v: u32,       // E
    window: u32,      // causal: maximum number of keys per query, ending at its own position; 0: no limit
    row_queries: u32, // queries per head and workgroup
    block_heads: u32, // query heads per workgroup
    head_splits: u32, // workgroups that share the query heads of one KV head
    row_blocks: u32,  // workgroups along the queries
    col_splits: u32,  // workgroups that share the value columns
    splits: u32,      // workgroups that share the keys (split-K only)
    sequences: u32,   // number of packed sequences, if there are any
    score: f32,       // argument of the score function: the scale of a dot product times log2(e), or the epsilon of the Yat kernel
    norm_eps: f32,    // added to the sum of weights
    cap: f32,         // C: a score s becomes C tanh(s / C); 0: it stays
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
    bias: Strides,    // 0 from one batch entry or head to the next if they share it
    mask: Strides,    // in words
    lse: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;

override CAUSAL: u32 = 1u; // whether query i sees keys up to i + keys - N only
override EXPONENTIAL: u32 = 1u; // whether weights are exponentials of scores, or the scores themselves

// At most any score. A row that has seen no key has this as its running maximum.
const LOWEST: f32 = -3.4028234e38;

// Scores whose exponentials are weights are in units of log 2, for powers of two.
const LOG2_E: f32 = 1.4426950408889634;

// Weight of a score. Exponentials are relative to the running maximum.
fn weight_of(score: f32, largest: f32) -> f32 {
    if (EXPONENTIAL == 0u) {
        return score;
    }
    return exp2(score - largest);
}

// Divisor of the weighted sums. If the total weight is 0 (a row that sees no key), the sums are 0 and stay 0.
fn divisor_of(sum: f32) -> f32 {
    let divisor = sum + params.norm_eps;
    return select(divisor, 1.0, divisor == 0.0);
}
