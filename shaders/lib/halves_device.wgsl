// The two f16 of a word as f32, for devices with f16: some others do not compile unpack2x16float (halves_software.wgsl).
fn halves(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}
