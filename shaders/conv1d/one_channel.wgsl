// Four tokens in a row of one channel, and a weight of that channel.
const CHANNELS: u32 = 1u;
alias Tap = f32;
alias Four = vec4<f32>;

fn with_channel(tap: Tap, channel: u32, value: f32) -> Tap {
    return value;
}

fn four_of(value: Tap) -> Four {
    return vec4<f32>(value);
}

fn scaled_sum(sum: Four, tap: Tap, x: Four) -> Four {
    return sum + tap * x;
}

fn chosen(mask: vec4<bool>, four: Four, other: Four) -> Four {
    return select(other, four, mask);
}

// The four tokens that start 1, 2 or 3 tokens after those of `a`; `b` are the four after these.
fn later_1(a: Four, b: Four) -> Four {
    return vec4<f32>(a.yzw, b.x);
}

fn later_2(a: Four, b: Four) -> Four {
    return vec4<f32>(a.zw, b.xy);
}

fn later_3(a: Four, b: Four) -> Four {
    return vec4<f32>(a.w, b.xyz);
}

fn activated(four: Four) -> Four {
    return silus(four);
}
