// Scores of all pairs of chunks of a segment, once for all workgroups that weigh them. Grid: pairs of chunks, query heads of a
// key head, segments, key heads. Reads q, k; writes scores. Decays are left to the readers.
@group(0) @binding(SCORES_BINDING) var<storage, read_write> scores: array<vec4<f32>>; // see chunk_scores_place.wgsl

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn recurrence_scores(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let chunks = (params.segment + CHUNK - 1u) / CHUNK;
    let pairs = chunks * (chunks + 1u) / 2u;
    // Segments and query heads of all key heads are numbered. The place is that of the first head that shares a key head.
    let rest = index / pairs;
    let each = params.segments * params.head_splits;
    let home = place(rest + rest / each * each * (params.share - 1u), params.queries, invocation);
    let number = index % pairs;
    var own = 0u;
    for (var chunk = 1u; chunk < CHUNKS; chunk++) {
        own += select(0u, 1u, number >= chunk * (chunk + 1u) / 2u);
    }
    let start = home.span.first;
    let first = start + own * CHUNK;
    let end = min(first + CHUNK, home.span.end);
    if (first >= end) {
        return;
    }
    let p = shared_place(home);
    let key = start + (number - own * (own + 1u) / 2u) * CHUNK;
    score(p, Pair(first, end, key, min(key + CHUNK, end), false), invocation);
    let at = scores_at(p, number, invocation);
    for (var i = 0u; i < EACH; i++) {
        count_store(4u);
        scores[at + i * INVOCATIONS] =
            vec4<f32>(cells[i * PARTS], cells[i * PARTS + 1u], cells[i * PARTS + 2u], cells[i * PARTS + 3u]);
    }
}
