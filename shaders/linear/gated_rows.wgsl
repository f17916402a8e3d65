// Decay by exp(g), with one factor per row. Prelude constant: KEEP_LOGS, 1 if the state of a segment will be stored. A variant
// brings logs_of(at, i, counted), the logarithms.

var<workgroup> wg_decay: array<vec4<f32>, TILE * DIM4>; // tokens past the end get no decay
// Used only if the state of a segment is stored. Otherwise it has one element, to leave workgroup memory to the tiles.
var<workgroup> wg_log: array<vec4<f32>, select(1u, TILE * DIM4, KEEP_LOGS == 1u)>;

fn load_decays(p: Place, first: u32, end: u32, invocation: u32) {}

fn load_decay(p: Place, first: u32, end: u32, invocation: u32) {
    let head = head_start(params.g, p.b, p.g);
    for (var i = invocation; i < TILE * DIM4; i += INVOCATIONS) {
        let n = first + i / DIM4;
        let given = logs_of(head + min(n, end - 1u) * params.g.token, i % DIM4, n < end);
        let logs = select(vec4<f32>(0.0), given, n < end);
        if (KEEP_LOGS == 1u) {
            wg_log[i] = logs;
        }
        wg_decay[i] = decay_factors(logs, (n - p.span.start) % params.segment);
    }
}

fn decay(t: u32, i: u32) -> vec4<f32> {
    return wg_decay[t * DIM4 + i];
}

fn log_decay(t: u32, i: u32) -> vec4<f32> {
    return wg_log[t * DIM4 + i];
}
