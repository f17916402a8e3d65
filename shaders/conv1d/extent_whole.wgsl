// Every batch entry is one sequence: its first token, and one past its last.
fn extent(sequence: u32) -> vec2<u32> {
    return vec2<u32>(0u, params.length);
}
