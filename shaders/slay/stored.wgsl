// The rows of a workgroup's state: row i, in groups of four, is A[i / E4] times E[i % E4], so that products are not stored.
//
// Prelude constants, in addition to those of the recurrences: PAL, entries of A per workgroup, and PAL4, vec4s of them;
// SQUARES4, vec4s stored for A; E4, groups of four of R F; READ_HEADS, 0 if no queries are read. A map for the square
// brings stored_at (stored_keys.wgsl), keep(vector, i, x), which takes what is loaded as number i into workgroup memory,
// and finish_tile.

var<workgroup> wg_a: array<f32, VECTORS * 4u * PAL4>; // 0 from PAL on
var<workgroup> wg_e: array<vec4<f32>, VECTORS * E4>;

// Places of the rows of an invocation, found once: its groups of four rows of the matrix, and its first row of the sums of
// features. Groups of four rows follow each other within E if ROWS4 divides E4; otherwise each place is found where it is
// needed.
const FOLLOWING: bool = E4 % ROWS4 == 0u;
var<private> own_group: u32;
var<private> own_a: u32;
var<private> own_e: u32;
var<private> sum_a: u32;
var<private> sum_e: u32;

fn begin_walk(p: Place, segment: u32, stored: bool, invocation: u32) {
    own_group = same_in_row(invocation / COL_THREADS) * ROWS4;
    own_a = own_group / E4;
    own_e = own_group % E4;
    sum_a = invocation / 4u / E4;
    sum_e = invocation / 4u % E4;
}

fn end_walk(p: Place, store: bool, invocation: u32) {}

// Entry p of A. Rows beyond the map's are padding: their entry is 0.
fn square_at(vector: u32, p: u32) -> f32 {
    let a = wg_a[vector * 4u * PAL4 + min(p, 4u * PAL4 - 1u)];
    if (PAL == 4u * PAL4 && DIM4 > PAL * E4) {
        return select(a, 0.0, p >= PAL);
    }
    return a;
}

// The rows of an invocation share an entry of A if they follow each other: it is multiplied with the values and with the sums.
fn value_scale(t: u32) -> f32 {
    if (FOLLOWING) {
        return square_at(t, own_a);
    }
    return 1.0;
}

fn sum_scale(row: u32) -> f32 {
    return value_scale(TILE + row);
}

fn key_features(t: u32, i: u32) -> vec4<f32> {
    if (FOLLOWING) {
        return wg_e[t * E4 + own_e + (i - own_group)];
    }
    return square_at(t, i / E4) * wg_e[t * E4 + i % E4];
}

fn key_feature_at(t: u32, d: u32) -> f32 {
    // Where the sums of features have one row per invocation, row d is that of this invocation.
    if (NORM_ROWS == 1u && 4u * DIM4 == INVOCATIONS) {
        return square_at(t, sum_a) * wg_e[t * E4 + sum_e][d % 4u];
    }
    return square_at(t, d / 4u / E4) * wg_e[t * E4 + d / 4u % E4][d % 4u];
}

// The stored state has rows in the order (r, p, f).
fn state_row(i: u32) -> u32 {
    let p = own.first_poly + i / (4u * E4);
    let rf = i % (4u * E4);
    if (i >= PAL * 4u * E4 || p >= own.poly || rf >= own.nodes * own.features) {
        return params.rows;
    }
    return (rf / own.features * own.poly + p) * own.features + rf % own.features;
}
