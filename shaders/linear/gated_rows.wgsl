// Decay by exp(g), with one factor per row. Prelude constant: KEEP_LOGS, 1 if the state of a segment will be stored.
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<Gate>; // B G N D'

var<workgroup> wg_decay: array<vec4<f32>, TILE * DIM4>; // tokens past the end get no decay
// Used only if the state of a segment is stored. Otherwise it has one element, to leave workgroup memory to the tiles.
var<workgroup> wg_log: array<vec4<f32>, select(1u, TILE * DIM4, KEEP_LOGS == 1u)>;

fn log_at(at: u32, d: u32) -> f32 {
    if (d >= params.rows) {
        return 0.0;
    }
    count_load(1u);
    return f32(gate[at + d]);
}

fn load_decays(p: Place, first: u32, end: u32, invocation: u32) {}

fn load_decay(p: Place, first: u32, end: u32, invocation: u32) {
    let head = head_start(params.g, p.b, p.g);
    for (var i = invocation; i < TILE * DIM4; i += INVOCATIONS) {
        let n = first + i / DIM4;
        var logs = vec4<f32>(0.0);
        if (n < end) {
            let at = head + n * params.g.token;
            let d = 4u * (i % DIM4);
            logs = vec4<f32>(
                log_at(at, state_row(d)),
                log_at(at, state_row(d + 1u)),
                log_at(at, state_row(d + 2u)),
                log_at(at, state_row(d + 3u)),
            );
        }
        if (KEEP_LOGS == 1u) {
            wg_log[i] = logs;
        }
        let at = (n - p.span.start) % params.segment;
        wg_decay[i] = vec4<f32>(
            decay_factor(logs.x, at), decay_factor(logs.y, at), decay_factor(logs.z, at), decay_factor(logs.w, at),
        );
    }
}

fn decay(t: u32, i: u32) -> vec4<f32> {
    return wg_decay[t * DIM4 + i];
}

fn log_decay(t: u32, i: u32) -> vec4<f32> {
    return wg_log[t * DIM4 + i];
}

fn value_scale(t: u32) -> f32 {
    return 1.0;
}
