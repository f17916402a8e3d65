// Loads of a table of f16 (table_f32.wgsl), four columns at once, as words: any device has these. Needs halves_device.wgsl or
// halves_software.wgsl.
@group(0) @binding(TABLE_BINDING) var<storage, read> table: array<vec2<u32>>; // V D / 4

fn load_table(at: u32) -> Columns {
    count_load(2u);
    let words = table[at];
    return vec4<f32>(halves(words.x), halves(words.y));
}
