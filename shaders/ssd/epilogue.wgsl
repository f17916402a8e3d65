// Epilogue of four columns of an output: d x, then the gate of z.
fn epilogue(p: Place, n: u32, t: u32, i: u32, sum: vec4<f32>) -> vec4<f32> {
    let h = p.g;
    // No barrier follows: with one query head, the invocation that reads these values is the one that loads the next ones.
    let x = wg_v[t * COL_THREADS + i];
    let e = (p.split * COL_THREADS + i) * 4u;
    let at = head_start(params.o, p.b, h) + n * params.o.token + e;
    var y = sum;
    for (var c = 0u; c < 4u; c++) {
        if (e + c < params.dim_v) {
            y[c] = gated(at + c, skipped(h, e + c, x[c], sum[c]));
        }
    }
    return y;
}
