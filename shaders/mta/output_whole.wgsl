// Stores outputs (output.wgsl) of workgroups that process all keys. Needs rows of o.

fn store_output(block: Block, row: u32, e: u32, values: vec4<f32>, sum: f32) {
    count_store(four_of(e, params.dim_v));
    // If the total weight is 0 (a row that sees no key), the sums are 0 and stay 0.
    let over = select(1.0 / sum, 0.0, sum == 0.0);
    store_o(head_start(params.o, block.batch, block.head) + row * params.o.token, e, values * over);
}

fn store_sums(block: Block, row: u32, top: f32, sum: f32) {}
