// Positions in a buffer `memory` of u32.
fn advance_position(unit: u32, sequence: u32, tokens: u32) {
    let at = position_of(unit, sequence);
    count_load(2u);
    count_store(2u);
    let low = memory[at] + tokens;
    memory[at + 1u] += u32(low < tokens);
    memory[at] = low;
}
