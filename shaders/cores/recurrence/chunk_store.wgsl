// Stores outputs of chunks: normalised, with the epilogue, and added to those of an earlier run.
override SUMMED: u32 = 0u; // 1: outputs are added to those of an earlier run

// For the epilogue: values of token n.
fn token_values(p: Place, n: u32, t: u32, i: u32) -> vec4<f32> {
    return chunk_values(p, n, n + 1u, i);
}

// Stores four columns of token t of the chunk from token `first` up to `end`, unless they are past the end.
fn store_output(p: Place, first: u32, end: u32, t: u32, column: u32, sums: vec4<f32>, weight: f32) {
    let n = first + t;
    let e = (p.split * COL_THREADS + column) * 4u;
    if (n < end && e < params.dim_v) {
        var sum = normalize(t, sums, weight);
        sum = epilogue(p, n, t, column, sum);
        let at = head_start(params.o, p.b, p.g * p.group + p.head_split) + n * params.o.token;
        if (SUMMED == 1u) {
            count_load(four_of(e, params.dim_v));
            sum += load_o(at, e);
        }
        count_store(four_of(e, params.dim_v));
        store_o(at, e, sum);
    }
}
