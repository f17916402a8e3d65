// Sums over taps next to each other (dilation 1). Four taps need twelve inputs for eight outputs, and share them: the window
// moves by four inputs, and taps of one of its positions are shifted copies. Prelude constants: WIDTH, LEFT.

// Inputs in front of the window, so that it starts at a multiple of four.
const LEAD: u32 = (4u - LEFT % 4u) % 4u;
const GROUPS: u32 = (LEAD + WIDTH + 3u) / 4u;

fn convolved(place: Place, local: u32, token: u32, begin: Strip, spans: Spans) -> Strip {
    let start = i32(token) - i32(LEFT + LEAD);
    var sum = begin;
    var a = inputs(place, start);
    var b = inputs(place, start + 4);
    for (var g = 0u; g < GROUPS; g++) {
        // The tap of the window's first position. In front of the first tap it wraps around, and is no tap.
        let w = 4u * g - LEAD;
        let offset = i32(w) - i32(LEFT);
        if (w < WIDTH) {
            sum = added(sum, wg_taps[w * UNITS + local], Strip(a, b), offset, spans);
        }
        if (4u * g + 1u < LEAD + WIDTH) {
            let c = inputs(place, start + 8 + i32(4u * g));
            if (w + 1u < WIDTH) {
                sum = added(sum, wg_taps[(w + 1u) * UNITS + local], Strip(later_1(a, b), later_1(b, c)), offset + 1, spans);
            }
            if (w + 2u < WIDTH) {
                sum = added(sum, wg_taps[(w + 2u) * UNITS + local], Strip(later_2(a, b), later_2(b, c)), offset + 2, spans);
            }
            if (w + 3u < WIDTH) {
                sum = added(sum, wg_taps[(w + 3u) * UNITS + local], Strip(later_3(a, b), later_3(b, c)), offset + 3, spans);
            }
            a = b;
            b = c;
        }
    }
    return sum;
}
