// The nearest code of every row, from the two least distances of each part of the codes. Where rounding may have decided,
// the codes that may be nearest are compared exactly.
// Grid: rows. Reads found, q (the rows), k (the codes); writes code, o.
@group(0) @binding(FOUND_BINDING) var<storage, read> found: array<u32>; // R splits 3
@group(0) @binding(CODE_BINDING) var<storage, read_write> code: array<u32>; // R

const INFINITE: u32 = 0x7f800000u;
const LANES: u32 = 64u;

// The code, and the bits of the largest distance that a nearest code may have; 0 if the code is certain.
var<workgroup> wg_choice: vec2<u32>;
var<workgroup> wg_totals: array<u32, LANES * WORDS>;
var<workgroup> wg_codes: array<u32, LANES>;

// Whether the number of words that starts at `a` is less than that at `b`. Both are in two's complement.
fn is_less(a: u32, b: u32) -> bool {
    for (var i = WORDS; i > 0u; i--) {
        let sign = select(0u, 0x80000000u, i == WORDS);
        let left = wg_totals[a + i - 1u] ^ sign;
        let right = wg_totals[b + i - 1u] ^ sign;
        if (left != right) {
            return left < right;
        }
    }
    return false;
}

fn first_choice(row: u32) -> vec2<u32> {
    var least = vec3<u32>(NONE, NONE, 0u);
    for (var split = 0u; split < params.splits; split++) {
        let at = (row * params.splits + split) * 3u;
        count_load(3u);
        least = merged(least, vec3<u32>(found[at], found[at + 1u], found[at + 2u]));
    }
    if (least.x >= INFINITE) {
        return vec2<u32>(least.z, NONE);
    }
    // The f32 distance of the nearest code is at most this: both distances are rounded.
    let slack = f32(params.dim_k + 8u);
    let most = bitcast<f32>(least.x) * (1.0 + slack * 2.3841858e-7) + slack * 7.888609e-31;
    return vec2<u32>(least.z, select(bitcast<u32>(most), 0u, least.y > bitcast<u32>(most)));
}

@compute @workgroup_size(64)
fn primitives_quantize_decide(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group_index(params.grid, group, groups);
    if (row >= params.grid.end) {
        return;
    }
    let from_row = row * params.dim_k;
    let book = row / params.inner % params.heads * params.book;
    if (lane == 0u) {
        wg_choice = first_choice(row);
    }
    let choice = workgroupUniformLoad(&wg_choice);
    var chosen = choice.x;
    if (choice.y != 0u) {
        var mine = NONE;
        for (var c = lane; c < params.codes; c += LANES) {
            let from_code = book + c * params.dim_k;
            var far = 0.0;
            for (var e = 0u; e < params.dim_k; e += 4u) {
                count_load(2u * four_of(e, params.dim_k));
                let d = select(vec4<f32>(0.0), load_q(from_row, e) - load_k(from_code, e), within(e, params.dim_k));
                far += dot(d, d);
            }
            if ((bitcast<u32>(far) & 0x7fffffffu) > choice.y || !exact_distance(from_row, from_code)) {
                continue;
            }
            // Compare with the best one of this lane. Equal distances leave the lower code.
            var less = mine == NONE;
            for (var i = WORDS; i > 0u && !less; i--) {
                let sign = select(0u, 0x80000000u, i == WORDS);
                let left = total[i - 1u] ^ sign;
                let right = wg_totals[lane * WORDS + i - 1u] ^ sign;
                if (left > right) {
                    break;
                }
                less = left < right;
            }
            if (less) {
                mine = c;
                for (var i = 0u; i < WORDS; i++) {
                    wg_totals[lane * WORDS + i] = total[i];
                }
            }
        }
        wg_codes[lane] = mine;
        workgroupBarrier();
        if (lane == 0u) {
            var best = 0u;
            for (var other = 1u; other < LANES; other++) {
                let a = wg_codes[best];
                let b = wg_codes[other];
                let less = b != NONE && (a == NONE || is_less(other * WORDS, best * WORDS));
                let equal = b != NONE && a != NONE && !is_less(best * WORDS, other * WORDS);
                if (less || (equal && b < a)) {
                    best = other;
                }
            }
            wg_choice.x = select(wg_codes[best], 0u, wg_codes[best] == NONE);
        }
        chosen = workgroupUniformLoad(&wg_choice).x;
    }
    if (lane == 0u) {
        count_store(1u);
        code[row] = chosen;
    }
    for (var e = lane * 4u; e < params.dim_k; e += LANES * 4u) {
        let elements = four_of(e, params.dim_k);
        count_load(elements);
        count_store(elements);
        store_o(from_row, e, load_k(book + chosen * params.dim_k, e));
    }
}
