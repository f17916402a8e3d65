// Sizes of the features, and their factors. Same layout as `Own` in src/ops/slay/layout.rs; a test compares them.
struct Own {
    nodes: u32,      // R
    poly: u32,       // width of the polynomial map: P or D (D + 1) / 2
    features: u32,   // F
    omega: u32,      // start of omega in the weights
    first_poly: u32, // first entry of the polynomial map in this dispatch
    poly_scale: f32,
    key_heads: u32,  // heads of k, which share no omega
    _pad: u32,
    node: array<vec4<f32>, 32>, // sqrt(2 s_r), s_r, sqrt(w_r / F)
}

@group(0) @binding(1) var<uniform> own: Own;
