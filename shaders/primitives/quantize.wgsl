// Parameters of one recording of quantize, and the least distances of a row. Same layout as `Params` in
// src/ops/primitives/quantize.rs; a test compares them. Rows are those of x, in storage order.
struct Params {
    grid: Grid,
    rows: u32,   // rows of a unit: those that have one codebook
    heads: u32,  // codebooks
    inner: u32,  // rows from one head to the next
    step: u32,   // rows from one row of a unit to the next
    entry: u32,  // rows from one batch entry to the next
    codes: u32,  // C
    book: u32,   // elements of a codebook; 0 if there is one for all
    splits: u32, // parts of the codes
    tiles: u32,  // tiles of 64 codes per part
    dim_k: u32,  // E
    dim_v: u32,  // E
    _pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// Distances are compared by their bits, without the sign: this is their order, and NaN comes last whatever a compiler
// assumes.
const NONE: u32 = 0xffffffffu;

// The least and the second least distance, and the code of the least one, of two sets of codes.
fn merged(a: vec3<u32>, b: vec3<u32>) -> vec3<u32> {
    let second = min(max(a.x, b.x), min(a.y, b.y));
    return vec3<u32>(min(a.x, b.x), second, select(a.z, b.z, b.x < a.x));
}
