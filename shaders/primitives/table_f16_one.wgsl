// Loads of a table of f16 (table_f16_four.wgsl), one column at once, from the word that has it.
@group(0) @binding(TABLE_BINDING) var<storage, read> table: array<u32>; // V D / 2, rounded up

fn load_table(at: u32) -> Columns {
    count_load(1u);
    return halves(table[at / 2u])[at % 2u];
}
