// Factors of o, four elements at once (o_wide.wgsl).
@group(0) @binding(TIMES_BINDING) var<storage, read> times: array<vec4<Elem>>;

fn with_times(at: u32, elements: u32, values: vec4<f32>) -> vec4<f32> {
    count_load(elements);
    if (elements == 0u) {
        return values;
    }
    return values * vec4<f32>(times[(at - params.o_base) / 4u]);
}
