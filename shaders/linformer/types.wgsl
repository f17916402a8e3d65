// What is fixed for a recording of the steps that shorten keys and values. Twin of `Params` in src/ops/linformer/layout.rs;
// tests compare them.
struct Params {
    grid: Grid,
    keys: u32,        // M
    rank: u32,        // K
    kv_heads: u32,    // G
    heads: u32,       // heads of the result: G, or H where each query head has a projection of its own
    dim: u32,         // D or E
    splits: u32,      // workgroups that share the tokens
    split_len: u32,   // tokens of each
    units: u32,       // results: batch * heads
    first_unit: u32,  // where this step starts
    first_row: u32,   // where this step starts, of K
    row_tiles: u32,   // tiles of rows in this step
    col_tiles: u32,   // tiles of columns
    end_row: u32,     // where this step ends, of K
    matrix_head: u32, // elements from one head's projection to the next; 0: all share one
    matrix_base: u32, // first element of its binding
    _pad: u32,
    x: Strides,       // of k or v
}

@group(0) @binding(0) var<uniform> params: Params;

override POOL: u32 = 0u; // 0: a projection matrix; 1: mean; 2: largest

// floor(i * total / n) without leaving u32, for i <= n < 2^16.
fn portion(i: u32, n: u32, total: u32) -> u32 {
    return i * (total / n) + i * (total % n) / n;
}

// Tokens that row r of a pooling takes: from .x to .y.
fn window(r: u32) -> vec2<u32> {
    let end = (r + 1u) * (params.keys % params.rank);
    return vec2<u32>(
        portion(r, params.rank, params.keys),
        (r + 1u) * (params.keys / params.rank) + (end + params.rank - 1u) / params.rank,
    );
}

// What a sum or maximum over all splits comes to.
fn finish(value: f32, r: u32) -> f32 {
    if (POOL == 1u) {
        let tokens = window(r);
        return value / f32(tokens.y - tokens.x);
    }
    return value;
}

// Where element (r, d) of a unit lies: one result after the other, and all of them again for each split.
fn home(split: u32, unit: u32, r: u32, d: u32) -> u32 {
    return ((split * params.units + unit) * params.rank + r) * params.dim + d;
}
