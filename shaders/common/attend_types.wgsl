// What the tiled attention core knows of a recording. Twin of `Params` in src/ops/attend.rs; tests compare them.
struct Params {
    grid: Grid,
    queries: u32,     // N
    keys: u32,        // M
    heads: u32,       // H
    kv_heads: u32,    // G
    dim_k: u32,       // D
    dim_v: u32,       // E
    window: u32,      // keys a query sees at most when causal; 0: all up to its own
    row_queries: u32, // queries of one head in a workgroup
    block_heads: u32, // query heads in a workgroup
    head_splits: u32, // workgroups that share the query heads of a key head
    row_blocks: u32,  // workgroups along the queries
    col_splits: u32,  // workgroups that share the columns of the values
    splits: u32,      // workgroups that share the keys (split over keys only)
    first_key: u32,   // where the first of them starts
    score: f32,       // what the score takes beside the pair: its factor, or what a kernel adds to its denominator
    norm_eps: f32,    // added to the sum of weights
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;

override CAUSAL: u32 = 1u; // whether query i sees keys up to i + M - N only
override EXPONENTIAL: u32 = 1u; // whether weights are exponentials of scores, or the scores themselves

// Not above any score; a row that has seen no key has it as its maximum.
const LOWEST: f32 = -3.4028234e38;

// One past the last key that query n sees.
fn keys_end(n: u32) -> u32 {
    if (CAUSAL == 0u) {
        return params.keys;
    }
    return u32(max(i32(n) + 1 + i32(params.keys) - i32(params.queries), 0));
}

// The first key that query n sees.
fn keys_start(n: u32) -> u32 {
    let end = keys_end(n);
    if (CAUSAL == 0u || params.window == 0u || end <= params.window) {
        return 0u;
    }
    return end - params.window;
}

// The weight of a score. Exponentials are relative to the largest one.
fn weight_of(score: f32, largest: f32) -> f32 {
    if (EXPONENTIAL == 0u) {
        return score;
    }
    return exp(score - largest);
}

// What weighted sums are divided by. Without a weight, as for a row that sees no key, they are zeros and stay so.
fn divisor_of(sum: f32) -> f32 {
    let divisor = sum + params.norm_eps;
    return select(divisor, 1.0, divisor == 0.0);
}
