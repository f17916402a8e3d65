// What the feature maps of whole vectors need. Same layout as `Own` in src/ops/linear/layout.rs; a test compares them.
struct Own {
    map: vec4<f32>, // performer: D^-1/4, D^-1/2, F^-1/2
    omega: u32,     // elements of omega from one head of k to the next; 0 if they share it
    max_len: u32,   // cosformer: horizon in tokens, the distance at which weights reach zero
    _pad: vec2<u32>,
}

@group(0) @binding(1) var<uniform> own: Own;
