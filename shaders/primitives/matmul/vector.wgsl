// Products of few rows with weights: a workgroup multiplies all rows of x by COLUMNS rows of the weight, which are read once
// and straight into registers. Invocations share the columns of x, 64 chunks at a time.
// Grid: groups of COLUMNS rows of the weight, none of two outputs. Reads x, weight and what follows the sums; writes o.
//
// Chunks past the end of a row repeat the last one, and count as zeros; rows of the weight past the end repeat the last one.
//
// Consts of the prelude: X_ROWS, at least the rows of x, and COLUMNS, powers of two with a product of at most 16; BATCH, the
// chunks of a row that an invocation loads at once; ODD_DIMS, 1 if a row has no whole number of these; OUTPUTS. Needs a
// fragment each of x_* and bias, dims.wgsl, chunks of the weight, finish.wgsl with its narrow fragments, and a reduction.
const INVOCATIONS: u32 = 64u;
const REDUCED: u32 = X_ROWS * COLUMNS;
const CHUNK: u32 = 4u * PARTS_OF_CHUNK;
// Columns of x that the workgroup processes at once.
const STEP: u32 = CHUNK * INVOCATIONS;

fn product(own: Output, first: u32, invocation: u32) {
    var sums: array<f32, REDUCED>;
    for (var i = 0u; i < REDUCED; i++) {
        sums[i] = 0.0;
    }
    for (var k = CHUNK * invocation; k < params.inner; k += STEP * BATCH) {
        var chunks: array<Chunk, BATCH * COLUMNS>;
        for (var b = 0u; b < BATCH; b++) {
            for (var m = 0u; m < COLUMNS; m++) {
                let at = k + STEP * b;
                let there = first + m < own.end && at < params.inner;
                count_load(select(0u, chunk_words(at), there));
                chunks[b * COLUMNS + m] = load_chunk(own.first + min(first + m, own.end - 1u), at);
            }
        }
        for (var b = 0u; b < BATCH; b++) {
            for (var part = 0u; part < PARTS_OF_CHUNK; part++) {
                let d = k + STEP * b + 4u * part;
                var fours: array<vec4<f32>, COLUMNS>;
                for (var m = 0u; m < COLUMNS; m++) {
                    fours[m] = whole_dims(chunk_part(chunks[b * COLUMNS + m], part), d);
                }
                for (var n = 0u; n < X_ROWS; n++) {
                    let at = params.first_row + n;
                    count_load(select(0u, four_of(d, params.inner), at < params.end_row));
                    let row = whole_dims(load_x(min(at, params.end_row - 1u), d), d);
                    for (var m = 0u; m < COLUMNS; m++) {
                        let four = fours[m];
                        var sum = sums[n * COLUMNS + m];
                        sum += row.x * four.x;
                        sum += row.y * four.y;
                        sum += row.z * four.z;
                        sum += row.w * four.w;
                        sums[n * COLUMNS + m] = sum;
                    }
                }
            }
        }
    }
    all_sum(invocation, &sums);
    // One element for each of the first invocations.
    var sum = 0.0;
    for (var i = 0u; i < REDUCED; i++) {
        sum = select(sum, sums[i], i == invocation);
    }
    let n = params.first_row + invocation / COLUMNS;
    let m = first + invocation % COLUMNS;
    if (invocation < REDUCED && n < params.end_row && m < own.end) {
        let value = vec4<f32>(sum) + load_bias(own.first + m, 1u);
        finish(own.offset + n * own.row + m * own.column, 1u, value);
    }
}

@compute @workgroup_size(INVOCATIONS)
fn primitives_matmul_vector(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let own = params.outputs[output_of(index)];
    product(own, own.start + (index - own.tile) * COLUMNS, invocation);
}
