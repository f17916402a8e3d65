// The two f16 of a pair, as the bits of f32, for devices with f16.
fn unpack(pair: u32) -> vec2<u32> {
    return bitcast<vec2<u32>>(unpack2x16float(pair));
}
