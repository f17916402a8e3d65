// The inputs before a sequence are those of its state (history.wgsl). They come before all others in the sum of an output, so
// that they are added first.
fn inputs(place: Place, first: i32) -> Four {
    return load(place, first);
}

fn begun(place: Place, local: u32, sum: Strip, spans: Spans) -> Strip {
    var all = array<Four, 2>(sum.first, sum.second);
    var own = spans;
    for (var i = 0u; i < 8u; i++) {
        let row = own.sequences[i] * params.channels + place.channel;
        // The input of a tap, counted from the first token of the sequence.
        var input = spans.token + i32(i) - i32(params.left) - own.starts[i / 4u][i % 4u];
        for (var w = 0u; w < WIDTH && input < 0; w++) {
            let term = wg_taps[w * UNITS + local] * remembered(row, input + i32(params.states));
            let token = i % 4u;
            all[i / 4u] = with_token(all[i / 4u], token, one_token(all[i / 4u], token) + term);
            input += i32(params.dilation);
        }
    }
    return Strip(all[0], all[1]);
}
