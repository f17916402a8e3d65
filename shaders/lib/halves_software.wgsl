// The two f16 of a word as f32, exactly, by whole numbers: for devices without f16 (halves_device.wgsl).
fn halves(word: u32) -> vec2<f32> {
    let half = vec2<u32>(word & 0xffffu, word >> 16u);
    let size = half & vec2<u32>(0x7fffu);
    // An exponent of f16 is 112 less than that of f32; that of infinities and NaN is the largest of each. Below the normal
    // numbers, an f16 counts units of 2^-24.
    let more = select(vec2<u32>(112u << 23u), vec2<u32>(224u << 23u), size >= vec2<u32>(0x7c00u));
    let normal = bitcast<vec2<f32>>((size << vec2<u32>(13u)) + more);
    let value = select(normal, vec2<f32>(size) * 5.9604644775390625e-8, size < vec2<u32>(0x0400u));
    return select(value, -value, half >= vec2<u32>(0x8000u));
}
