// Cosines and sines of the angles of a token, which are products in f32. A product of thousands of turns is reduced in whole
// numbers, so that no compiler fuses it into another operation and no device's own `sin` is asked for large arguments. Errors are
// below 1.5e-7 up to an angle of 2^32. The kernel has frequencies_of(piece), for COLUMNS pairs.

struct Turn {
    c: Columns,
    s: Columns,
}

// 1 / (2 pi) in 96 bits behind the point.
const PER_TURN: vec3<u32> = vec3<u32>(0x28be60dbu, 0x9391054au, 0x7f09d5f4u);

// 32 bits of two words, from bit `at` of the first on.
fn bits_from(first: Wholes, second: Wholes, at: Wholes) -> Wholes {
    return (first << at) | ((second >> Wholes(1u)) >> (31u - at));
}

// The part of `angle` over whole turns, in units of 2^-32 turns. The angle is 0.5 or more.
fn part_of_turn(angle: Columns) -> Wholes {
    // angle = digits 2^(exponent - 150), and the window of 1 / (2 pi) that matters begins this many bits before the point, less 32.
    let bits = bitcast<Wholes>(angle);
    let digits = (bits & Wholes(0x7fffffu)) | Wholes(0x800000u);
    let offset = (bits >> Wholes(23u)) - 118u;
    let far = offset >= Wholes(32u);
    let at = offset & Wholes(31u);
    let one = select(Wholes(0u), Wholes(PER_TURN.x), far);
    let two = select(Wholes(PER_TURN.x), Wholes(PER_TURN.y), far);
    let three = select(Wholes(PER_TURN.y), Wholes(PER_TURN.z), far);
    let high = bits_from(one, two, at);
    let low = bits_from(two, three, at);
    // The upper word of digits low, without the product of the lower halves: the result is up to 3 units less.
    let half = Wholes(16u);
    let upper = (digits >> half) * (low >> half);
    let middle = (((digits >> half) * (low & Wholes(0xffffu))) >> half) + (((digits & Wholes(0xffffu)) * (low >> half)) >> half);
    return digits * high + upper + middle;
}

fn turn_of(piece: u32, position: u32) -> Turn {
    let angle = f32(position) * frequencies_of(piece);
    let part = part_of_turn(max(angle, Columns(0.5)));
    let near = angle < Columns(0.5);
    // Quarters of a turn, and what lies between the nearest one and the angle: at most an eighth of a turn, in radians.
    let quarter = select((part + 0x20000000u) >> Wholes(30u), Wholes(0u), near);
    let rest = bitcast<Signed>(part - (quarter << Wholes(30u)));
    let x = select(Columns(rest) * 1.4629180792671596e-9, angle, near);
    let z = x * x;
    let sine = x + x * z * ((z * -1.9515295891e-4 + 8.3321608736e-3) * z - 1.6666654611e-1);
    let cosine = 1.0 - 0.5 * z + z * z * ((z * 2.443315711809948e-5 - 1.388731625493765e-3) * z + 4.166664568298827e-2);
    let odd = (quarter & Wholes(1u)) == Wholes(1u);
    let c = select(cosine, sine, odd);
    let s = select(sine, cosine, odd);
    let c_below = ((quarter + 1u) & Wholes(2u)) == Wholes(2u);
    let s_below = (quarter & Wholes(2u)) == Wholes(2u);
    return Turn(select(c, -c, c_below), select(s, -s, s_below));
}
