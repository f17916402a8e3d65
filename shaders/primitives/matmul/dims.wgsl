// Four columns of a row, without those past its end. ODD_DIMS is a const of the prelude: 0 if no load is past an end.
fn whole_dims(four: vec4<f32>, k: u32) -> vec4<f32> {
    let inside = vec4<u32>(k, k + 1u, k + 2u, k + 3u) < vec4<u32>(params.inner);
    return select(four, select(vec4<f32>(0.0), four, inside), vec4<bool>(ODD_DIMS != 0u));
}
