// Decay by one factor per head, for kernels that store a state and read none in between: the state decays once for a batch of
// tokens, and a token's values by what is left of them at the end of the batch. The factors are exponentials of sums of log
// decays, which are as exact for any decay.
//
// Takes the place of decay_tokens.wgsl, and of by_token.wgsl. The operator defines decay_token(p, n) and SCALED as there.
const BY_BATCH: bool = true;

var<workgroup> wg_log: array<f32, BATCH>; // tokens past the end have no decay
var<workgroup> wg_left: array<f32, BATCH>;
var<workgroup> wg_scale: array<f32, select(4u, BATCH, SCALED == 1u)>;
var<workgroup> wg_total: array<f32, 4>; // the first: of the batch

fn load_decays(p: Place, first: u32, end: u32, invocation: u32) {
    for (var i = invocation; i < BATCH; i += INVOCATIONS) {
        var token = vec2<f32>(0.0);
        if (first + i < end) {
            token = decay_token(p, first + i);
        }
        wg_log[i] = token.x;
        if (SCALED == 1u) {
            wg_scale[i] = token.y;
        }
    }
    workgroupBarrier();
    for (var i = invocation; i < BATCH; i += INVOCATIONS) {
        var later = 0.0;
        for (var j = i + 1u; j < BATCH; j++) {
            later += wg_log[j];
        }
        wg_left[i] = decay_over(later);
        if (i == 0u) {
            wg_total[0] = wg_log[0] + later;
        }
    }
    workgroupBarrier();
}

fn load_decay(p: Place, first: u32, end: u32, invocation: u32) {}

fn left_of_token(t: u32) -> f32 {
    return wg_left[tile_start + t];
}

// Sum of the log decays of the batch.
fn batch_log() -> f32 {
    return wg_total[0];
}

fn decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(1.0);
}

fn log_decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}

fn value_scale(t: u32) -> f32 {
    if (SCALED == 0u) {
        return 1.0;
    }
    return wg_scale[tile_start + t];
}
