// Scores that need sums of squares, for matrix.wgsl: sums of a workgroup's rows and keys, from workgroup memory. Past the
// end of a row, loads repeat elements, so the sums stop at D.
const SQUARE_PARTS: u32 = INVOCATIONS / KEYS; // invocations that share a key
var<workgroup> wg_key_squares: array<f32, INVOCATIONS>;

fn squares_from(at: u32, first: u32, step: u32) -> f32 {
    var sum = 0.0;
    for (var d = 4u * first; d < params.dim_k; d += 4u * step) {
        let halves = select(vec4<f32>(0.0), vec4<f32>(wg_halves[at + d / 4u]), within(d, params.dim_k));
        sum += dot(halves, halves);
    }
    return sum;
}

// The square of a row, while the queries are in workgroup memory.
fn row_square(row: u32) -> f32 {
    return squares_from(row * DIM_STRIDE, 0u, 1u);
}

// Adds up the squares of the keys in workgroup memory, in parts. `put_scores` reads them behind a barrier.
fn put_key_squares(invocation: u32) {
    let key = invocation / SQUARE_PARTS;
    wg_key_squares[invocation] = squares_from(key * DIM_STRIDE, invocation % SQUARE_PARTS, SQUARE_PARTS);
}

// Writes scores over the products of a row's part of the tile at `key`. Each belongs to a single invocation. The loop is not
// to be unrolled: a score may have a loop of its own.
fn put_scores(row: RowPart, part: u32, key: u32, end: u32) {
    for (var i = 0u; i < 4u * PART4; i++) {
        let j = 4u * PART4 * part + i;
        var square = 0.0;
        for (var share = 0u; share < SQUARE_PARTS; share++) {
            square += wg_key_squares[j * SQUARE_PARTS + share];
        }
        let at = row.row * SCORE_STRIDE + j / 4u;
        var score = score_of(wg_floats[at][j % 4u], row.square, square);
        if (REVISED && is_rough(score)) {
            // Keys past the last one are not read.
            score = exact_score(row.row, min(key + j, end - 1u));
        }
        wg_floats[at][j % 4u] = score;
    }
}

fn scores_at(at: u32) -> vec4<f32> {
    return wg_floats[at];
}
