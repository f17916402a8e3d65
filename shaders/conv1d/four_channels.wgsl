// Four tokens in a row (columns) of four channels next to each other, and a weight of each channel.
const CHANNELS: u32 = 4u;
alias Tap = vec4<f32>;
alias Four = mat4x4<f32>;

fn with_channel(tap: Tap, channel: u32, value: f32) -> Tap {
    var all = tap;
    all[channel] = value;
    return all;
}

fn four_of(value: Tap) -> Four {
    return mat4x4<f32>(value, value, value, value);
}

fn scaled_sum(sum: Four, tap: Tap, x: Four) -> Four {
    return mat4x4<f32>(sum[0] + tap * x[0], sum[1] + tap * x[1], sum[2] + tap * x[2], sum[3] + tap * x[3]);
}

fn chosen(mask: vec4<bool>, four: Four, other: Four) -> Four {
    return mat4x4<f32>(
        select(other[0], four[0], mask[0]),
        select(other[1], four[1], mask[1]),
        select(other[2], four[2], mask[2]),
        select(other[3], four[3], mask[3]),
    );
}

// The four tokens that start 1, 2 or 3 tokens after those of `a`; `b` are the four after these.
fn later_1(a: Four, b: Four) -> Four {
    return mat4x4<f32>(a[1], a[2], a[3], b[0]);
}

fn later_2(a: Four, b: Four) -> Four {
    return mat4x4<f32>(a[2], a[3], b[0], b[1]);
}

fn later_3(a: Four, b: Four) -> Four {
    return mat4x4<f32>(a[3], b[0], b[1], b[2]);
}

fn activated(four: Four) -> Four {
    return mat4x4<f32>(silus(four[0]), silus(four[1]), silus(four[2]), silus(four[3]));
}
