// Sums over taps that lie K inputs from each other: each loads its own inputs, from a multiple of four on.
fn convolved(place: Place, local: u32, token: u32, begin: Strip, spans: Spans) -> Strip {
    var sum = begin;
    for (var w = 0u; w < WIDTH; w++) {
        let offset = i32(w * params.dilation) - i32(params.left);
        let shift = bitcast<u32>(offset) % 4u;
        let start = i32(token) + offset - i32(shift);
        let a = inputs(place, start);
        let b = inputs(place, start + 4);
        var x = Strip(a, b);
        if (shift > 0u) {
            let c = inputs(place, start + 8);
            if (shift == 1u) {
                x = Strip(later_1(a, b), later_1(b, c));
            } else if (shift == 2u) {
                x = Strip(later_2(a, b), later_2(b, c));
            } else {
                x = Strip(later_3(a, b), later_3(b, c));
            }
        }
        sum = added(sum, wg_taps[w * UNITS + local], x, offset, spans);
    }
    return sum;
}
