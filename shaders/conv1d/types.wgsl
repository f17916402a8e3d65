// What is fixed for a recording of conv1d. Twin of `Params` in src/ops/conv1d/layout.rs; tests compare them.
struct Params {
    grid: Grid,
    rows: u32,     // B C
    channels: u32, // C
    length: u32,   // N
    tiles: u32,    // tiles of tokens
    bias: u32,     // where the bias starts among the weights
    base: u32,     // first element of the bindings of x and y
    _pad: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;

// Inputs before a tile that its first outputs read: as many as the state has of a row. Const of the prelude: WIDTH.
const BEFORE: u32 = WIDTH - 1u;
