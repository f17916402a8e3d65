// Squared distances without rounding, in whole numbers of WORDS * 32 bits, the least word first: multiples of 2^-298,
// the square of the smallest f32. Floats are taken apart by their bits, so that it does not matter how a GPU rounds or whether it
// takes small numbers for zero. Sums of 2048 products are below 2^268, so that 18 words hold them and their sign.
const WORDS: u32 = 18u;
var<private> total: array<u32, WORDS>;

// Whether bits are those of a NaN or an infinity.
fn is_endless(bits: u32) -> bool {
    return (bits & 0x7f800000u) == 0x7f800000u;
}

fn mantissa(bits: u32) -> u32 {
    return (bits & 0x7fffffu) | select(0x800000u, 0u, (bits & 0x7f800000u) == 0u);
}

fn exponent(bits: u32) -> u32 {
    return max((bits >> 23u) & 255u, 1u);
}

// Adds the product of two floats, times 2^shift, to the total, or subtracts it.
fn add_product(a: u32, b: u32, shift: u32, minus: bool) {
    let m = mantissa(a);
    let n = mantissa(b);
    // 24 times 24 bits by halves of 12.
    let below = (m & 0xfffu) * (n & 0xfffu);
    let between = (m & 0xfffu) * (n >> 12u) + (m >> 12u) * (n & 0xfffu);
    let above = (m >> 12u) * (n >> 12u);
    let sum = below + (between << 12u);
    let low = sum + (above << 24u);
    let high = (above >> 8u) + (between >> 20u) + u32(sum < below) + u32(low < sum);
    // The product is high * 2^32 + low, in units of 2^(exponents - 300).
    let place = exponent(a) + exponent(b) - 2u + shift;
    let bit = place % 32u;
    // A shift by 32 bits is one by none in WGSL.
    let rest = select(vec2<u32>(low, high) >> vec2<u32>(32u - bit), vec2<u32>(0u), bit == 0u);
    let terms = vec3<u32>(low << bit, (high << bit) | rest.x, rest.y);
    var carry = 0u;
    let first = place / 32u;
    for (var i = first; i < WORDS; i++) {
        let more = i - first;
        let term = select(0u, terms[min(more, 2u)], more < 3u);
        let before = total[i];
        if (minus) {
            let difference = before - term;
            total[i] = difference - carry;
            carry = u32(before < term) + u32(difference < carry);
        } else {
            let added = before + term;
            total[i] = added + carry;
            carry = u32(added < term) + u32(total[i] < carry);
        }
        if (more >= 2u && carry == 0u) {
            break;
        }
    }
}

// Sets the total to |x - c|^2 - |x|^2 of a row and a code; false if one of them has a NaN or an infinity.
fn exact_distance(row: u32, code: u32) -> bool {
    total = array<u32, WORDS>();
    var sound = true;
    for (var e = 0u; e < params.dim_k; e += 4u) {
        let elements = four_of(e, params.dim_k);
        count_load(2u * elements);
        let xs = bitcast<vec4<u32>>(load_q(row, e));
        let cs = bitcast<vec4<u32>>(load_k(code, e));
        for (var i = 0u; i < elements; i++) {
            let x = xs[i];
            let c = cs[i];
            sound = sound && !is_endless(x) && !is_endless(c);
            add_product(c, c, 0u, false);
            add_product(x, c, 1u, (x >> 31u) == (c >> 31u));
        }
    }
    return sound;
}
