// performer-relu: features are complete when they are loaded.
fn keep(vector: u32, i: u32, value: vec4<f32>) {
    wg_phi[vector * MAPPED4 + i] = value;
}

fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {}
