// Parameters of one recording of conv1d. Same layout as `Params` in src/ops/conv1d/layout.rs; a test compares them.
struct Params {
    grid: Grid,
    units: u32,     // units of one outer index: all rows (batch, channel), or the channels of a batch entry (by fours if wide)
    blocks: u32,    // workgroups that cover the units of one outer index
    channels: u32,  // C
    length: u32,    // N
    tiles: u32,     // tiles of tokens
    bias: u32,      // start of the bias in the weights
    base: u32,      // first element of the bindings of x and y
    sequences: u32, // packed sequences; 1 if there are none
    dilation: u32,  // K
    left: u32,      // inputs before a token that its output reads
    states: u32,    // inputs per row in the state, (W - 1) K
    _pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// Order of the axes of x and y. 0: B C N, an outer index stands for everything. 1: B N C, it stands for a batch entry.
override CHANNELS_LAST: u32 = 0u;

// The rows (batch, channel) that an invocation computes: one, or some channels next to each other.
struct Place {
    row: u32,     // the first of them: b C + c
    channel: u32, // c
    start: u32,   // index of its token 0 in x and y
}

fn placed(outer: u32, channel: u32) -> Place {
    if (CHANNELS_LAST == 1u) {
        let start = outer * params.length * params.channels + channel;
        return Place(outer * params.channels + channel, channel, start - params.base);
    }
    return Place(channel, channel % params.channels, channel * params.length - params.base);
}

// The elements from a token to the next in x and y.
fn token_stride() -> u32 {
    return select(1u, params.channels, CHANNELS_LAST == 1u);
}
