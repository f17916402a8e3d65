// The residual, four elements at once (o_wide.wgsl).
@group(0) @binding(RESIDUAL_BINDING) var<storage, read> residual: array<vec4<Elem>>;

fn with_residual(at: u32, elements: u32, values: vec4<f32>) -> vec4<f32> {
    count_load(elements);
    if (elements == 0u) {
        return values;
    }
    return values + vec4<f32>(residual[(at - params.o_base) / 4u]);
}
