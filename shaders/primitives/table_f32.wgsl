// Loads of a table of f32 (embedding.wgsl), which may be a part of the tensor.
@group(0) @binding(TABLE_BINDING) var<storage, read> table: array<Columns>; // V D

fn load_table(at: u32) -> Columns {
    count_load(COLUMNS);
    return table[at];
}
