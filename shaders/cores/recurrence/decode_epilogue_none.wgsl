// Decode with values and outputs as given.
fn value_of(b: u32, g: u32, e: u32) -> f32 {
    return value_element(b, g, e);
}

fn epilogue_one(b: u32, h: u32, e: u32, value: f32) -> f32 {
    return value;
}
