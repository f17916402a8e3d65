// Scores of a pair of chunks as a dispatch before stored them (scores.wgsl). No keys are loaded.
@group(0) @binding(SCORES_BINDING) var<storage, read> scores: array<vec4<f32>>; // see chunk_scores_place.wgsl

const SCORES_STORED: bool = true;

fn key_group(p: Place, n: u32, end: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}

fn find_scores(p: Place, pair: Pair, number: u32, invocation: u32) {
    let at = scores_at(p, number, invocation);
    for (var i = 0u; i < EACH; i++) {
        count_load(4u);
        let four = scores[at + i * INVOCATIONS];
        cells[i * PARTS] = four.x;
        cells[i * PARTS + 1u] = four.y;
        cells[i * PARTS + 2u] = four.z;
        cells[i * PARTS + 3u] = four.w;
    }
}
