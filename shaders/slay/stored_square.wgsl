// A as it is stored: of a vector's vec4s the part of this dispatch, then E.
fn stored_at(i: u32) -> u32 {
    return select(SQUARES4 + i - PAL4, own.first_poly / PAL * PAL4 + i, i < PAL4);
}

fn keep(vector: u32, i: u32, value: vec4<f32>) {
    if (i >= PAL4) {
        wg_e[vector * E4 + i - PAL4] = value;
        return;
    }
    let at = 4u * (vector * PAL4 + i);
    wg_a[at] = value.x;
    wg_a[at + 1u] = value.y;
    wg_a[at + 2u] = value.z;
    wg_a[at + 3u] = value.w;
}

// No work here: features are complete when they are loaded.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {}
