// The residual, element by element (o_wide.wgsl).
@group(0) @binding(RESIDUAL_BINDING) var<storage, read> residual: array<Elem>;

fn with_residual(at: u32, elements: u32, values: vec4<f32>) -> vec4<f32> {
    count_load(elements);
    var all = vec4<f32>(0.0);
    for (var i = 0u; i < elements; i++) {
        all[i] = f32(residual[at - params.o_base + i]);
    }
    return values + all;
}
