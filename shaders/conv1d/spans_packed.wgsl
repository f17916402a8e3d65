// An output reads inputs of its own sequence only (extent_packed.wgsl).
struct Spans {
    token: i32,               // first token of the strip
    sequences: array<u32, 8>, // of each token
    starts: array<vec4<i32>, 2>,
    ends: array<vec4<i32>, 2>,
}

fn spans(token: u32) -> Spans {
    var all: Spans;
    all.token = i32(token);
    var sequence = packed_sequence(token);
    var own = vec2<i32>(extent(sequence));
    for (var i = 0u; i < 8u; i++) {
        let at = token + i;
        if (i32(at) >= own.y && at < params.length) {
            sequence = packed_sequence(at);
            own = vec2<i32>(extent(sequence));
        }
        all.sequences[i] = sequence;
        all.starts[i / 4u][i % 4u] = own.x;
        all.ends[i / 4u][i % 4u] = own.y;
    }
    return all;
}

// Adds a tap times the inputs that lie `offset` tokens after those of the outputs.
fn added(sum: Strip, tap: Tap, x: Strip, offset: i32, spans: Spans) -> Strip {
    let first = spans.token + offset + vec4<i32>(0, 1, 2, 3);
    let second = first + 4;
    return Strip(
        chosen(
            (first >= spans.starts[0]) & (first < spans.ends[0]),
            scaled_sum(sum.first, tap, x.first),
            sum.first,
        ),
        chosen(
            (second >= spans.starts[1]) & (second < spans.ends[1]),
            scaled_sum(sum.second, tap, x.second),
            sum.second,
        ),
    );
}
