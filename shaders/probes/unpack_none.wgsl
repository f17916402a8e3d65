// Leaves pairs of f16 out, for devices without f16: some of them do not compile unpack2x16float.
fn unpack(pair: u32) -> vec2<u32> {
    return vec2<u32>(0u);
}
