// What is fixed for a recording of a part. Twin of `Params` in src/ops/parts/mod.rs; tests compare them.
struct Params {
    grid: Grid,
    rows: u32,  // R
    count: u32, // of what a row has: indices, numbers
    dim: u32,   // E
    table: u32, // rows of the table; bins
    heads: u32, // H
    inner: u32, // rows from one head to the next
    run: u32,   // numbers that are sorted already
    tau: f32,
    eps: f32,
    _pad: u32,
    _pads: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;
