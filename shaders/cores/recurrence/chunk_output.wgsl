// Recurrence, pass 2 of the chunk form: the outputs of one chunk of a segment, from the state before the segment, the chunk's
// own tokens, and those of the chunks of the segment before it. Grid: chunks of a segment, column splits, query heads of a KV
// head, segments, KV heads. Reads q, k, v, segments; writes o.
//
// A variant brings, in addition to what chunk.wgsl needs: chunk_values(p, n, end, col_thread), four values of a token;
// normalize(row, sum, weight) and epilogue(p, n, t, i, o) as for output.wgsl.
override SUMMED: u32 = 0u; // 1: outputs are added to those of an earlier run

// For the epilogue: values of token n.
fn token_values(p: Place, n: u32, t: u32, i: u32) -> vec4<f32> {
    return chunk_values(p, n, n + 1u, i);
}

// Adds the shares that the column threads of a row thread have of sums of weights, and returns the sums of four rows.
fn row_weights(row_thread: u32, f: u32) -> vec4<f32> {
    let home = (row_thread * FOURS + f) * COL_THREADS;
    var sum = wg_keys[home];
    for (var i = 1u; i < COL_THREADS; i++) {
        sum += wg_keys[home + i];
    }
    return sum;
}

fn store_chunk(p: Place, first: u32, end: u32, row_thread: u32, col_thread: u32) {
    if (NORMALIZE == 1u) {
        workgroupBarrier();
        for (var f = 0u; f < FOURS; f++) {
            wg_keys[(row_thread * FOURS + f) * COL_THREADS + col_thread] =
                vec4<f32>(shares[4u * f], shares[4u * f + 1u], shares[4u * f + 2u], shares[4u * f + 3u]);
        }
        workgroupBarrier();
    }
    let e = (p.split * COL_THREADS + col_thread) * 4u;
    let head = head_start(params.o, p.b, p.g * p.group + p.head_split);
    for (var f = 0u; f < FOURS; f++) {
        var weights = vec4<f32>(0.0);
        if (NORMALIZE == 1u) {
            weights = row_weights(row_thread, f);
        }
        for (var i = 0u; i < 4u; i++) {
            let t = row_thread + ROW_THREADS * (4u * f + i);
            let n = first + t;
            if (n < end && e < params.dim_v) {
                var sum = normalize(t, sums[4u * f + i], weights[i]);
                sum = epilogue(p, n, t, col_thread, sum);
                let at = head + n * params.o.token;
                if (SUMMED == 1u) {
                    count_load(four_of(e, params.dim_v));
                    sum += load_o(at, e);
                }
                count_store(four_of(e, params.dim_v));
                store_o(at, e, sum);
            }
        }
    }
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn recurrence_chunk(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let chunks = (params.segment + CHUNK - 1u) / CHUNK;
    let home = place(index / chunks, params.queries, invocation);
    let own = index % chunks;
    let start = home.span.first;
    let first = start + own * CHUNK;
    let end = min(first + CHUNK, home.span.end);
    if (first >= end) {
        return;
    }
    let p = shared_place(home);
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    load_logs(p, start, end, invocation);
    clear_cells();
    for (var i = 0u; i < EACH; i++) {
        sums[i] = vec4<f32>(0.0);
        shares[i] = 0.0;
    }
    let base = (p.kv * params.stored_segments + p.segment) * params.segment_stride;
    for (var slice = 0u; slice < SLICES; slice++) {
        workgroupBarrier();
        load_slice(p, slice, first, end, first, end, base, true, invocation);
        var norm = 0.0;
        if (NORMALIZE == 1u) {
            let d = feature_row(slice * 4u * SLICE4 + col_thread);
            count_load(select(0u, 1u, d < params.rows && row_thread == 0u));
            norm = select(0.0, segment_at(base + params.rows * params.dim_v + min(d, params.rows - 1u)), d < params.rows);
        }
        workgroupBarrier();
        add_slice(row_thread, col_thread, true);
        if (NORMALIZE == 1u) {
            for (var i = 0u; i < EACH; i++) {
                let q = wg_rows[(row_thread + ROW_THREADS * i) * SLICE4 + col_thread / 4u];
                shares[i] += q[col_thread % 4u] * norm;
            }
        }
    }
    for (var i = 0u; i < EACH; i++) {
        let left = left_since_start(own * CHUNK + row_thread + ROW_THREADS * i);
        sums[i] *= left;
        shares[i] *= left;
    }
    weigh(own * CHUNK, own * CHUNK, row_thread, col_thread, true);
    add_values(p, first, end, true, row_thread, col_thread, invocation);
    if (CHUNKS > 1u) {
        for (var chunk = 0u; chunk < own; chunk++) {
            let key = start + chunk * CHUNK;
            clear_cells();
            for (var slice = 0u; slice < SLICES; slice++) {
                workgroupBarrier();
                load_slice(p, slice, first, end, key, key + CHUNK, base, false, invocation);
                workgroupBarrier();
                add_slice(row_thread, col_thread, false);
            }
            weigh(own * CHUNK, chunk * CHUNK, row_thread, col_thread, false);
            add_values(p, key, key + CHUNK, false, row_thread, col_thread, invocation);
        }
    }
    store_chunk(p, first, end, row_thread, col_thread);
}
