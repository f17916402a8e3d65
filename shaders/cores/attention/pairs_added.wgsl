// Single pairs of a query and a key: a bias is added to their score, and a mask may hide them.
// Needs bias.wgsl or no_bias.wgsl, and mask.wgsl or no_mask.wgsl.
const PAIRS: bool = true; // whether single pairs may be hidden

// Where the row of a query starts in the bias and in the mask.
struct PairRow {
    bias: u32,
    mask: u32,
}

// The row of a query. Rows past the end, which only pad a tile, read that of the last query or head.
fn pair_row(b: u32, h: u32, n: u32) -> PairRow {
    let head = min(h, params.heads - 1u);
    let query = min(n, params.queries - 1u);
    return PairRow(bias_row(b, head, query), mask_row(b, head, query));
}

// The number that is added to the score of a pair.
fn pair_extra(row: PairRow, key: u32) -> f32 {
    return bias_at(row.bias + min(key, params.keys - 1u));
}

// Whether a pair counts, given its bias: minus infinity hides it. That is tested by its bits, because a compiler may assume
// that there are no infinities.
fn pair_seen(row: PairRow, key: u32, extra: f32) -> bool {
    return mask_at(row.mask, min(key, params.keys - 1u)) && bitcast<u32>(extra) != 0xff800000u;
}

// The score in units of log 2. The lowest numbers, with which some models mask, stay above the score of a hidden pair.
fn with_extra(score: f32, extra: f32) -> f32 {
    return score + max(extra, -2.3e38) * LOG2_E;
}
