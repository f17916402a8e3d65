// One of four tokens in a row, of one channel (one_channel.wgsl) or four (four_channels.wgsl).
fn one_token(four: Four, token: u32) -> Tap {
    var all = four;
    return all[token];
}

fn with_token(four: Four, token: u32, value: Tap) -> Four {
    var all = four;
    all[token] = value;
    return all;
}
