// Pass 2 (or the only pass): processes the tokens of a segment from its initial state, reads the state with c and applies the
// epilogue.
// Grid: column splits, segments, heads. Reads b, x, c, dt, weights, z; writes y, and segments at the end.
@group(0) @binding(3) var<storage, read> q: array<Row>;             // c, B N G S
@group(0) @binding(4) var<storage, read_write> o: array<Row>;       // y, B N H P
@group(0) @binding(5) var<storage, read_write> segments: array<f32>; // [B H][segments][segment_stride]

// Not used: ssd passes a carried state through the segments.
fn initial_state(at: u32) -> f32 {
    return 0.0;
}

fn epilogue(p: Place, n: u32, t: u32, i: u32, sum: vec4<f32>) -> vec4<f32> {
    let h = p.g;
    let x = wg_v[t * COL_THREADS + i];
    let e = (p.split * COL_THREADS + i) * 4u;
    let at = head_start(params.o, p.b, h) + n * params.o.token + e;
    var y = sum;
    for (var c = 0u; c < 4u; c++) {
        if (e + c < params.dim_v) {
            y[c] = gated(at + c, skipped(h, x[c], sum[c]));
        }
    }
    return y;
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn ssd_output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    output(index, invocation);
}
