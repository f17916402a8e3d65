// Parameters of one recording of a product. Same layout as `Params` in src/ops/primitives/matmul/layout.rs; a test compares
// them.
struct Output {
    tile: u32,   // first of its column tiles, or of its groups of rows of the weight
    first: u32,  // row of the weight for its column 0
    start: u32,  // first column of this dispatch
    end: u32,    // one past the last
    offset: u32, // its first element in o
    row: u32,    // elements of o from one row of x to the next
    column: u32, // elements of o from one row of the weight to the next
    _pad: u32,
}

struct Params {
    grid: Grid,
    rows: u32,      // N
    inner: u32,     // K
    first_row: u32, // rows of x of this dispatch
    end_row: u32,
    row_tiles: u32,
    x_base: u32, // first elements of the bindings
    weight_base: u32,
    o_base: u32,
    column_tiles: u32,
    split_len: u32, // columns of x of a split, a multiple of what a tile takes at once
    total: u32,     // elements of o, a multiple of four
    scale: f32,
    outputs: array<Output, 8>,
}

@group(0) @binding(0) var<uniform> params: Params;

// The output that a column tile belongs to. OUTPUTS is a const of the prelude.
fn output_of(tile: u32) -> u32 {
    var own = 0u;
    for (var i = 1u; i < OUTPUTS; i++) {
        own = select(own, i, tile >= params.outputs[i].tile);
    }
    return own;
}

// Number of the four elements from `first` on that lie before `end`.
fn four_of(first: u32, end: u32) -> u32 {
    return min(max(first, end) - first, 4u);
}
