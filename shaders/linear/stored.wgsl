// The state in registers to the workspace: per segment D x E, then D sums of features when normalised.

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
        let d = row_thread * ROWS + i;
        let row = base + d * params.dim_v + e;
        let within = d < params.dim_k;
        put_segment(row, state_rows[i].x, within && e < params.dim_v);
        put_segment(row + 1u, state_rows[i].y, within && e + 1u < params.dim_v);
        put_segment(row + 2u, state_rows[i].z, within && e + 2u < params.dim_v);
        put_segment(row + 3u, state_rows[i].w, within && e + 3u < params.dim_v);
    }
    if (NORMALIZE == 1u && p.split == 0u && col_thread == 0u) {
        for (var i = 0u; i < ROWS4; i++) {
            let d = (row_thread * ROWS4 + i) * 4u;
            let at = base + params.dim_k * params.dim_v + d;
            put_segment(at, norm_rows[i].x, d < params.dim_k);
            put_segment(at + 1u, norm_rows[i].y, d + 1u < params.dim_k);
            put_segment(at + 2u, norm_rows[i].z, d + 2u < params.dim_k);
            put_segment(at + 3u, norm_rows[i].w, d + 3u < params.dim_k);
        }
    }
}
