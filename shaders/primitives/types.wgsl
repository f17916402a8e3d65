// Parameters of one recording of a part. Same layout as `Params` in src/ops/primitives/mod.rs; a test compares them.
struct Params {
    grid: Grid,
    rows: u32,  // R
    count: u32, // indices or numbers per row
    dim: u32,   // E
    table: u32, // rows of the table, or bins
    heads: u32, // H
    inner: u32, // rows from one head to the next
    run: u32,   // length of the runs that are already sorted
    tau: f32,
    eps: f32,
    entry: u32,       // rows from one batch entry to the next
    table_batch: u32, // elements from the table of a batch entry to that of the next; 0 if they share it
    table_head: u32,  // the same of heads
}

@group(0) @binding(0) var<uniform> params: Params;
