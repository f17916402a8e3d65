// The bias of four neighbouring rows of the weight, those before `end`.
@group(0) @binding(BIAS_BINDING) var<storage, read> bias: array<f32>; // M

fn load_bias(row: u32, elements: u32) -> vec4<f32> {
    count_load(elements);
    var four = vec4<f32>(0.0);
    for (var i = 0u; i < elements; i++) {
        four[i] = bias[row + i];
    }
    return four;
}
