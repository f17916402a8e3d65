// Decay by one factor per head. The factors of BATCH tokens are prepared at a time, so that few invocations' work is not
// repeated for each tile.
//
// The operator defines: decay_token(p, n), the log decay of token n, then a factor of its values; SCALED, 1 if that is not 1.
// Prelude constant: KEEP_LOGS, 1 if the state of a segment will be stored.
var<workgroup> wg_decay: array<f32, BATCH>; // tokens past the end get no decay
var<workgroup> wg_log: array<f32, select(4u, BATCH, KEEP_LOGS == 1u)>;
var<workgroup> wg_scale: array<f32, select(4u, BATCH, SCALED == 1u)>;

fn load_decays(p: Place, first: u32, end: u32, invocation: u32) {
    for (var i = invocation; i < BATCH; i += INVOCATIONS) {
        var token = vec2<f32>(0.0);
        if (first + i < end) {
            token = decay_token(p, first + i);
        }
        wg_decay[i] = decay_factor(token.x, (first + i - p.span.start) % params.segment);
        if (KEEP_LOGS == 1u) {
            wg_log[i] = token.x;
        }
        if (SCALED == 1u) {
            wg_scale[i] = token.y;
        }
    }
}

fn load_decay(p: Place, first: u32, end: u32, invocation: u32) {}

fn decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(wg_decay[tile_start + t]);
}

fn log_decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(wg_log[tile_start + t]);
}

fn value_scale(t: u32) -> f32 {
    if (SCALED == 0u) {
        return 1.0;
    }
    return wg_scale[tile_start + t];
}
