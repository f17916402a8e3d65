// Parameters of one recording of an embedding. Same layout as `Params` in src/ops/primitives/embedding.rs; a test compares them.
struct Params {
    grid: Grid,
    tokens: u32,    // N
    dim: u32,       // D
    vocab: u32,     // V
    positions: u32, // L
    first: u32,     // first row of the table in this dispatch
    end: u32,       // the row behind the last one
    base: u32,      // element of the table at which its binding starts
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
