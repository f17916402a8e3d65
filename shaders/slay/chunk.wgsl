// Features for products of chunks (cores/recurrence/chunk.wgsl): products of the entries of A, the first factor, and of E, as
// a dispatch before stored them. Feature d is A[d / (4 E4)] times E[d % (4 E4)].
//
// Prelude constants: PAL, entries of A, and PAL4, vec4s stored for them; E4, groups of four of R F; RANDOM, F.
const FIRST4: u32 = PAL4;
const SECOND4: u32 = E4;
const STATE4: u32 = PAL * E4;

// Group i of the slices of A, then of those of E, of the row that starts at `row`: zero past the end of either.
fn factor_group(row: u32, i: u32, counted: bool) -> vec4<f32> {
    let second = i >= FIRST_SLICES * SLICE4;
    let within = select(i, i - FIRST_SLICES * SLICE4, second);
    let there = within < select(FIRST4, SECOND4, second);
    count_load(select(0u, 4u, there && counted));
    let at = min(within, select(FIRST4, SECOND4, second) - 1u) + select(0u, FIRST4, second);
    return select(vec4<f32>(0.0), features[row + at], there);
}

// Tokens from `end` on repeat the last one.
fn query_group(p: Place, r: u32, n: u32, end: u32, i: u32) -> vec4<f32> {
    return factor_group(query_features_at(p, r, min(n, end - 1u)), i, n < end);
}

// Past the last feature anything finite.
fn state_group(p: Place, r: u32, n: u32, end: u32, i: u32) -> vec4<f32> {
    let row = query_features_at(p, r, min(n, end - 1u));
    count_load(select(0u, 5u, n < end && i < STATE4));
    let a = min(i / E4, PAL - 1u);
    return features[row + a / 4u][a % 4u] * features[row + FIRST4 + i % E4];
}

// The stored state has rows in the order (r, p, f).
fn feature_row(d: u32) -> u32 {
    let p = d / (4u * E4);
    let rf = d % (4u * E4);
    let there = (p < PAL) & (rf < own.nodes * RANDOM);
    return select(params.rows, (rf / RANDOM * PAL + p) * RANDOM + rf % RANDOM, there);
}
