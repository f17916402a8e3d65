// Epilogue of four columns of an output: d x, then the gate of z.
fn epilogue(p: Place, n: u32, t: u32, i: u32, sum: vec4<f32>) -> vec4<f32> {
    let h = p.g;
    var x = vec4<f32>(0.0);
    if (SKIPPED == 1u) {
        x = token_values(p, n, t, i);
    }
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
