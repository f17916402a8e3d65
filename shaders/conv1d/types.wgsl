// Parameters of one recording of conv1d. Same layout as `Params` in src/ops/conv1d/layout.rs; a test compares them.
struct Params {
    grid: Grid,
    rows: u32,     // B C
    channels: u32, // C
    length: u32,   // N
    tiles: u32,    // tiles of tokens
    bias: u32,     // start of the bias in the weights
    base: u32,     // first element of the bindings of x and y
    _pad: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;

// Number of inputs before a tile that its first outputs read; also the inputs per row in the state. Prelude constant: WIDTH.
const BEFORE: u32 = WIDTH - 1u;
