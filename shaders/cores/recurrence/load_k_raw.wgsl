// The key vectors of a tile as stored: [TILE][DIM_K4] of wg_u. For operators whose features need the whole vector.
//
// Prelude constant: DIM_K4, groups of four of D. The operator declares wg_u.
const ROW4: u32 = DIM_K4;

// From the last token on vectors are zero, and so are their features.
fn put_key(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    wg_u[i] = select(vec4<f32>(0.0), x, there);
}
