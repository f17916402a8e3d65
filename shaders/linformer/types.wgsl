// Parameters of the steps that shorten keys and values. Same layout as `Params` in src/ops/linformer/layout.rs; a test
// compares them.
struct Params {
    grid: Grid,
    keys: u32,        // M
    rank: u32,        // K
    kv_heads: u32,    // G
    heads: u32,       // heads of the result: G, or H if each query head has its own projection
    dim: u32,         // D or E
    splits: u32,      // workgroups that share the tokens
    split_len: u32,   // tokens per split
    units: u32,       // results: batch * heads
    first_unit: u32,  // first unit of this step
    first_row: u32,   // first row (of K) of this step
    row_tiles: u32,   // row tiles in this step
    col_tiles: u32,   // column tiles
    end_row: u32,     // end (exclusive) of the rows (of K) of this step
    matrix_head: u32, // elements from one head's projection to the next; 0: all heads share one
    matrix_base: u32, // first element of the matrix binding
    matrix_row: u32,  // elements from one row of the projection to the next
    x: Strides,       // strides of k or v
}

@group(0) @binding(0) var<uniform> params: Params;

override POOL: u32 = 0u; // 0: a projection matrix; 1: mean pooling; 2: max pooling

// floor(i * total / n) without overflowing u32, for i <= n < 2^16.
fn portion(i: u32, n: u32, total: u32) -> u32 {
    return i * (total / n) + i * (total % n) / n;
}

// Tokens pooled by row r: from .x to .y (exclusive).
fn window(r: u32) -> vec2<u32> {
    let end = (r + 1u) * (params.keys % params.rank);
    return vec2<u32>(
        portion(r, params.rank, params.keys),
        (r + 1u) * (params.keys / params.rank) + (end + params.rank - 1u) / params.rank,
    );
}

// The divisor of the sum or maximum of row r over all splits.
fn count_of(r: u32) -> f32 {
    if (POOL == 1u) {
        let tokens = window(r);
        return f32(tokens.y - tokens.x);
    }
    return 1.0;
}

// Offset of element (r, d) of a unit. Units follow each other; each split has all of them.
fn home(split: u32, unit: u32, r: u32, d: u32) -> u32 {
    return ((split * params.units + unit) * params.rank + r) * params.dim + d;
}
