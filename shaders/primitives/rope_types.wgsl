// Parameters of one recording of rotary positions. Same layout as `Params` in src/ops/primitives/rope.rs; a test compares them.
struct Params {
    grid: Grid,
    tokens: u32,   // B N
    len: u32,      // N
    heads: u32,    // H; 0 if queries are not bound
    kv_heads: u32, // G
    dim: u32,      // D
    dim_v: u32,    // E; 0 if values are not bound
    pairs: u32,    // pairs of columns that are rotated
    rows: u32,     // rows of k_out along the sequence: N, or those of the cache
    before: u32,   // position of the first token, without `position`
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
    q: Strides,
    k: Strides,
    v: Strides,
    q_out: Strides,
    k_out: Strides,
    v_out: Strides,
    frequencies: array<vec4<f32>, 64>, // radians per token of each pair
}

@group(0) @binding(0) var<uniform> params: Params;
