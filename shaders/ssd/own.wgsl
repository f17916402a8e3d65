// Where the weights of a head are. Same layout as `Own` in src/ops/ssd/layout.rs; a test compares them.
struct Own {
    skip: u32, // start of d in the weights
    bias: u32, // start of dt_bias
    _pad: vec2<u32>,
}

@group(0) @binding(1) var<uniform> own: Own;
