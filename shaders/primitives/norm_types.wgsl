// Parameters of one recording of the norm. Same layout as `Params` in src/ops/primitives/gated_norm.rs; a test compares them.
struct Params {
    grid: Grid,
    rows: u32,  // R
    dim: u32,   // E
    heads: u32, // H
    len: u32,   // N
    entry: u32, // rows from one batch entry to the next
    inner: u32, // rows from one head to the next
    step: u32,  // rows from one token of a head to the next
    eps: f32,
    x: Strides,
    gate: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;
