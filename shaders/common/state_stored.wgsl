// The state in registers to the workspace: per segment rows x E, then as many sums of features as rows when normalised.

fn put_segment(at: u32, value: f32, exists: bool) {
    if (exists) {
        count_store(1u);
        segments[at] = value;
    }
}

fn store_segment(p: Place, row_thread: u32, col_thread: u32) {
    let base = (p.kv * params.segments + p.segment) * params.segment_stride;
    let e = (p.split * COL_THREADS + col_thread) * 4u;
    for (var i = 0u; i < ROWS; i++) {
        let d = state_row(row_thread * ROWS + i);
        let row = base + d * params.dim_v + e;
        let within = d < params.rows;
        put_segment(row, state_rows[i].x, within && e < params.dim_v);
        put_segment(row + 1u, state_rows[i].y, within && e + 1u < params.dim_v);
        put_segment(row + 2u, state_rows[i].z, within && e + 2u < params.dim_v);
        put_segment(row + 3u, state_rows[i].w, within && e + 3u < params.dim_v);
    }
    if (NORMALIZE == 1u && p.split == 0u && col_thread == 0u) {
        let norm = base + params.rows * params.dim_v;
        for (var i = 0u; i < ROWS; i++) {
            let d = state_row(row_thread * ROWS + i);
            put_segment(norm + d, norm_rows[i / 4u][i % 4u], d < params.rows);
        }
    }
}
