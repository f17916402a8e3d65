// cosformer: max(x, 0) of each element of a key, times the cosine and times the sine of its token's angle (angle.wgsl). In a
// workgroup the D cosine rows are padded to groups of four, then come the sine rows. The stored state has no padding.
//
// Prelude constant: DIM_K4, groups of four of D. The operator defines first_place(p), the position of the first token of
// the sequence modulo a turn.

const ROW4: u32 = DIM_K4;

// [TILE][DIM4], zero past the last token and past the head dimension.
var<workgroup> wg_k: array<vec4<f32>, TILE * DIM4>;

fn key_features(t: u32, i: u32) -> vec4<f32> {
    return select(wg_k[t * DIM4 + i], vec4<f32>(0.0), i >= 2u * DIM_K4);
}

fn key_feature_at(t: u32, d: u32) -> f32 {
    return select(wg_k[t * DIM4 + d / 4u][d % 4u], 0.0, d >= 8u * DIM_K4);
}

fn state_row(i: u32) -> u32 {
    let d = i % (4u * DIM_K4);
    if (i >= 8u * DIM_K4 || d >= params.dim_k) {
        return params.rows;
    }
    return i / (4u * DIM_K4) * params.dim_k + d;
}

// The first token of this workgroup's sequence, and its position modulo a turn.
var<private> start_token: u32;
var<private> start_place: u32;

fn put_key(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    let row = select(vec4<f32>(0.0), max(x, vec4<f32>(0.0)), there);
    let angle = angle_of(start_place, n - start_token);
    let to = i / DIM_K4 * DIM4 + i % DIM_K4;
    wg_k[to] = angle.x * row;
    wg_k[to + DIM_K4] = angle.y * row;
}

// No work here: features are computed while loading.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {}

fn begin_walk(p: Place, segment: u32, stored: bool, invocation: u32) {
    start_token = p.span.start;
    start_place = first_place(p);
}

fn end_walk(p: Place, store: bool, invocation: u32) {}
