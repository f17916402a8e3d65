// Pass 2, or the only one: walks the tokens of a segment with the state they start from, and reads it for the queries.
// Grid: column splits, head splits, segments, key heads. Reads q, k, v, state; writes o, and segments at the end.
@group(0) @binding(3) var<storage, read> q: array<Elem>;             // B H N D
@group(0) @binding(4) var<storage, read> state: array<f32>;          // packed: B G D E, then B G D
@group(0) @binding(5) var<storage, read_write> o: array<Elem>;       // B H N E
@group(0) @binding(6) var<storage, read_write> segments: array<f32>; // [B G][segments][segment_stride]

override CAUSAL: u32 = 1u; // whether tokens write the state before they read it; otherwise all read segment 0's
override INIT: u32 = 0u;   // state to start from: 0 zero, 1 segments, 2 state
override STORE: u32 = 0u;  // whether the last state goes to segments

fn load_q(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return feature(f32(q[at + d]));
}

// Tokens first .. first + TILE of the query heads of this workgroup, those from `end` on as zeros.
fn load_queries(p: Place, first: u32, end: u32, invocation: u32) {
    let per_kv = params.heads / params.kv_heads;
    let b = p.kv / params.kv_heads;
    let g = p.kv % params.kv_heads;
    for (var i = invocation; i < READ_HEADS * TILE * DIM4; i += INVOCATIONS) {
        let row = i / DIM4;
        let r = p.head_split * READ_HEADS + row / TILE;
        let n = first + row % TILE;
        let d = (i % DIM4) * 4u;
        var values = vec4<f32>(0.0);
        if (n < end && r < per_kv) {
            let at = head_start(params.q, b, g * per_kv + r) + n * params.q.token;
            values = vec4<f32>(load_q(at, d), load_q(at, d + 1u), load_q(at, d + 2u), load_q(at, d + 3u));
        }
        wg_q[i] = values;
    }
}

fn stored(at: u32, exists: bool) -> f32 {
    if (!exists) {
        return 0.0;
    }
    count_load(1u);
    if (INIT == 2u) {
        return state[at];
    }
    return segments[at];
}

fn load_state(p: Place, invocation: u32) {
    let row_thread = invocation / COL_THREADS;
    let col_thread = invocation % COL_THREADS;
    clear_state();
    if (INIT == 0u) {
        return;
    }
    let size = params.dim_k * params.dim_v;
    // Without a mask every segment of queries reads the first of the key segments' states, which holds the sum.
    let home = select(p.kv * params.stored_segments, p.kv * params.stored_segments + p.segment, CAUSAL == 1u);
    let base = select(home * params.segment_stride, p.kv * size, INIT == 2u);
    let norm = select(base + size, params.norm_offset + p.kv * params.dim_k, INIT == 2u);
    let e = (p.split * COL_THREADS + col_thread) * 4u;
    for (var i = 0u; i < ROWS; i++) {
        let d = row_thread * ROWS + i;
        let row = base + d * params.dim_v + e;
        let within = d < params.dim_k;
        state_rows[i] = vec4<f32>(
            stored(row, within && e < params.dim_v),
            stored(row + 1u, within && e + 1u < params.dim_v),
            stored(row + 2u, within && e + 2u < params.dim_v),
            stored(row + 3u, within && e + 3u < params.dim_v),
        );
    }
    if (NORMALIZE == 1u) {
        // Every column needs the sums of its rows: fetched once, by way of the memory that queries use later.
        for (var i = invocation; i < DIM4; i += INVOCATIONS) {
            let d = i * 4u;
            wg_q[i] = vec4<f32>(
                stored(norm + d, d < params.dim_k),
                stored(norm + d + 1u, d + 1u < params.dim_k),
                stored(norm + d + 2u, d + 2u < params.dim_k),
                stored(norm + d + 3u, d + 3u < params.dim_k),
            );
        }
        workgroupBarrier();
        for (var i = 0u; i < ROWS4; i++) {
            norm_rows[i] = wg_q[row_thread * ROWS4 + i];
        }
        workgroupBarrier();
    }
}

fn put_o(at: u32, value: f32, exists: bool) {
    if (exists) {
        count_store(1u);
        o[at] = Elem(value);
    }
}

fn store_outputs(p: Place, first: u32, end: u32, invocation: u32) {
    let per_kv = params.heads / params.kv_heads;
    let b = p.kv / params.kv_heads;
    let g = p.kv % params.kv_heads;
    for (var i = invocation; i < READ_HEADS * TILE * COL_THREADS; i += INVOCATIONS) {
        let row = i / COL_THREADS;
        let col_thread = i % COL_THREADS;
        let r = p.head_split * READ_HEADS + row / TILE;
        let n = first + row % TILE;
        if (n < end && r < per_kv) {
            var sum = params.scale * sum_partials(row, col_thread);
            if (NORMALIZE == 1u) {
                sum = sum / (params.scale * sum_weights(row) + params.norm_eps);
            }
            let e = (p.split * COL_THREADS + col_thread) * 4u;
            let at = head_start(params.o, b, g * per_kv + r) + n * params.o.token;
            put_o(at + e, sum.x, e < params.dim_v);
            put_o(at + e + 1u, sum.y, e + 1u < params.dim_v);
            put_o(at + e + 2u, sum.z, e + 2u < params.dim_v);
            put_o(at + e + 3u, sum.w, e + 3u < params.dim_v);
        }
    }
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn linear_output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let p = place(index);
    let row_thread = invocation / COL_THREADS;
    let col_thread = invocation % COL_THREADS;
    let end = min((p.segment + 1u) * params.segment, params.queries);
    load_state(p, invocation);
    for (var n = p.segment * params.segment; n < end; n += TILE) {
        load_queries(p, n, end, invocation);
        if (CAUSAL == 1u) {
            load_keys(p, n, end, invocation);
        }
        workgroupBarrier();
        for (var t = 0u; t < TILE; t++) {
            if (CAUSAL == 1u) {
                write_state(t, row_thread, col_thread);
            }
            for (var r = 0u; r < READ_HEADS; r++) {
                read_state(r, t, row_thread, col_thread);
            }
        }
        workgroupBarrier();
        store_outputs(p, n, end, invocation);
    }
    if (STORE == 1u && p.head_split == 0u) {
        store_segment(p, row_thread, col_thread);
    }
}
