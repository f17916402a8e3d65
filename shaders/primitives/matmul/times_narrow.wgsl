// Factors of o, element by element (o_wide.wgsl).
@group(0) @binding(TIMES_BINDING) var<storage, read> times: array<Elem>;

fn with_times(at: u32, elements: u32, values: vec4<f32>) -> vec4<f32> {
    count_load(elements);
    var all = vec4<f32>(0.0);
    for (var i = 0u; i < elements; i++) {
        all[i] = f32(times[at - params.o_base + i]);
    }
    return values * all;
}
