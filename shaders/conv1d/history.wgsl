// Elements of the carried state.
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>; // B C states, oldest first

// Input `at` of the state of each channel; zero if there is none.
fn remembered(row: u32, at: i32) -> Tap {
    var tap = Tap();
    if (at >= 0) {
        count_load(CHANNELS);
        for (var c = 0u; c < CHANNELS; c++) {
            tap = with_channel(tap, c, state[(row + c) * params.states + u32(at)]);
        }
    }
    return tap;
}
