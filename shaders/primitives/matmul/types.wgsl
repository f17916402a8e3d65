// Parameters of one recording of a product, and how elements follow from sums. Same layout as `Params` in
// src/ops/primitives/matmul/layout.rs; a test compares them.
struct Output {
    tile: u32,   // first of its column tiles
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
    scale: f32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
    outputs: array<Output, 8>,
}

@group(0) @binding(0) var<uniform> params: Params;

override ACTIVATION: u32 = 0u; // 0: none; 1: SiLU; 2: GELU; 3: GELU by tanh; 4: ReLU; 5: its square; 6: sigmoid

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

fn sigmoids(x: vec4<f32>) -> vec4<f32> {
    let most = vec4<f32>(87.0);
    return 1.0 / (1.0 + exponentials(-clamp(x, -most, most)));
}

fn activated(x: vec4<f32>) -> vec4<f32> {
    switch (ACTIVATION) {
        case 1u: {
            return silus(x);
        }
        case 2u: {
            return x * normal_shares(x);
        }
        case 3u: {
            // (1 + tanh y) / 2 is the sigmoid of 2 y.
            return x * sigmoids(1.5957691216057308 * (x + 0.044715 * x * x * x));
        }
        case 4u: {
            return max(x, vec4<f32>(0.0));
        }
        case 5u: {
            let positive = max(x, vec4<f32>(0.0));
            return positive * positive;
        }
        case 6u: {
            return sigmoids(x);
        }
        case 7u: {
            return -vec4<f32>(softplus(-x.x), softplus(-x.y), softplus(-x.z), softplus(-x.w));
        }
        default: {
            return x;
        }
    }
}
