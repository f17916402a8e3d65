// Decay by exp(g), with one factor per head or one per row. Prelude constants: DECAY, 1 or 2; KEEP_LOGS, 1 if the state of a segment will be stored.
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<Elem>; // B G N, or B G N D'

const GATES: u32 = select(1u, DIM4, DECAY == 2u);
var<workgroup> wg_decay: array<vec4<f32>, TILE * GATES>; // tokens past the end get no decay
// Used only if the state of a segment is stored. Otherwise it has one element, to leave workgroup memory to the tiles.
var<workgroup> wg_log: array<vec4<f32>, select(1u, TILE * GATES, KEEP_LOGS == 1u)>;

fn log_at(at: u32, d: u32) -> f32 {
    if (d >= params.rows) {
        return 0.0;
    }
    count_load(1u);
    return f32(gate[at + d]);
}

fn load_decay(p: Place, first: u32, end: u32, invocation: u32) {
    let head = head_start(params.g, p.b, p.g);
    for (var i = invocation; i < TILE * GATES; i += INVOCATIONS) {
        let n = first + i / GATES;
        var logs = vec4<f32>(0.0);
        if (n < end) {
            let at = head + n * params.g.token;
            if (DECAY == 1u) {
                logs = vec4<f32>(log_at(at, 0u));
            } else {
                let d = 4u * (i % GATES);
                logs = vec4<f32>(
                    log_at(at, state_row(d)),
                    log_at(at, state_row(d + 1u)),
                    log_at(at, state_row(d + 2u)),
                    log_at(at, state_row(d + 3u)),
                );
            }
        }
        if (KEEP_LOGS == 1u) {
            wg_log[i] = logs;
        }
        if (DECAY == 1u) {
            wg_decay[i] = vec4<f32>(decay_of(logs.x));
        } else {
            wg_decay[i] = vec4<f32>(decay_of(logs.x), decay_of(logs.y), decay_of(logs.z), decay_of(logs.w));
        }
    }
}

fn decay(t: u32, i: u32) -> vec4<f32> {
    return wg_decay[t * GATES + i % GATES];
}

fn log_decay(t: u32, i: u32) -> vec4<f32> {
    return wg_log[t * GATES + i % GATES];
}

fn value_scale(t: u32) -> f32 {
    return 1.0;
}
