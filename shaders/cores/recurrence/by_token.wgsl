// The state decays from token to token, if at all.
const BY_BATCH: bool = false;

// What is left, at the end of a batch, of what token t of the tile writes.
fn left_of_token(t: u32) -> f32 {
    return 1.0;
}

fn batch_log() -> f32 {
    return 0.0;
}
