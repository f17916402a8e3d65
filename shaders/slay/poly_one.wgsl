// No map for the square: the single entry is 1, or 0 for a vector of zeros, which has no direction.
fn square_feature(i: u32, vector: u32, g: u32) -> f32 {
    var some = false;
    for (var d = 0u; d < (params.dim_k + 3u) / 4u; d++) {
        some = some || any(wg_u[vector * DIM_K4 + d] != vec4<f32>(0.0));
    }
    return select(0.0, 1.0, some);
}
