// What the kernels that prepare a tensor need: one number per token and head is made of the tensor's. Same layout as
// `Prepare` in src/ops/linear/prepare.rs; a test compares them.
struct Params {
    grid: Grid,
    heads: u32,
    tokens: u32,
    dim: u32,       // elements per token and head of the tensor
    blocks: u32,    // workgroups per head
    bias: u32,      // start of dt_bias in the weights
    eps: f32,       // added to a sum of squares
    _pad: vec2<u32>,
    given: Strides, // of the tensor
    made: Strides,  // of what is made of it
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(GIVEN_BINDING) var<storage, read> given: array<Elem>;
@group(0) @binding(MADE_BINDING) var<storage, read_write> made: array<f32>;
