// Values of a chunk of a delta rule (cores/recurrence/chunk_output.wgsl): what its tokens write, in the place of `kept`.
@group(0) @binding(SOLVED_BINDING) var<storage, read> solved: array<vec4<f32>>;

fn chunk_values(p: Place, n: u32, end: u32, col_thread: u32) -> vec4<f32> {
    let i = p.split * COL_THREADS + col_thread;
    count_load(select(0u, 4u, n < end && i < KEPT4));
    return solved[chunk_start(p) + (min(n, end - 1u) - p.span.first) * SOLVED4 + min(i, KEPT4 - 1u)];
}

// The states before the chunks of a step follow one of each sequence.
fn state_before(p: Place) -> u32 {
    return params.sequences + p.segment - params.first;
}
