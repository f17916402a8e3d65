// Where four tokens in sequence lie in memory. A run from the last token to the first numbers them from the end.
override BACKWARD: u32 = 0u; // 1: the run takes the tokens from the last to the first

// The elements of tokens n to n + 3 of the row that starts at `row`. Tokens past the last repeat it.
fn elements_of(row: u32, n: u32) -> vec4<u32> {
    let last = params.length - 1u;
    let own = min(vec4<u32>(n, n + 1u, n + 2u, n + 3u), vec4<u32>(last));
    return row + select(own, last - own, BACKWARD == 1u);
}

// The same where N and n are multiples of four: the group of four elements, whose order `turned` makes that of the tokens.
fn group_of(row: u32, n: u32) -> u32 {
    let last = params.length - 4u;
    let own = min(n, last);
    return (row + select(own, last - own, BACKWARD == 1u)) / 4u;
}

fn turned(four: vec4<f32>) -> vec4<f32> {
    return select(four, four.wzyx, BACKWARD == 1u);
}

// The tokens n to n + 3 that are in a segment.
fn inside(segment: Segment, n: u32) -> vec4<bool> {
    let own = vec4<u32>(n, n + 1u, n + 2u, n + 3u);
    return (own >= vec4<u32>(segment.first)) & (own < vec4<u32>(segment.end));
}

fn count_of(four: vec4<bool>) -> u32 {
    let ones = vec4<u32>(four);
    return ones.x + ones.y + ones.z + ones.w;
}
