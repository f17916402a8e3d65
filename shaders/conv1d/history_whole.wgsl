// The inputs before a row are those of the state (history.wgsl). Four inputs lie before it, or none of them does.
fn inputs(place: Place, first: i32) -> Four {
    var four = load(place, first);
    if (first < 0) {
        for (var token = 0u; token < 4u; token++) {
            four = with_token(four, token, remembered(place.row, first + i32(token + params.states)));
        }
    }
    return four;
}

fn begun(place: Place, local: u32, sum: Strip, spans: Spans) -> Strip {
    return sum;
}
