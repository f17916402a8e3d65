// performer, decode: as favor_features.wgsl, for one token. A variant brings log_of(b, g), the log decay.
var<workgroup> wg_running_max: f32;
var<workgroup> wg_decay: f32;
var<workgroup> wg_log: f32; // running maximum plus the largest log feature of the query

fn prepare_decay(b: u32, g: u32, invocation: u32) {}

fn decay_row(d: u32) -> f32 {
    return wg_decay;
}

// Log feature for a given projection.
fn log_feature(product: f32) -> f32 {
    var square = 0.0;
    for (var d = 0u; d < params.dim_k; d++) {
        square += wg_x[d] * wg_x[d];
    }
    return own.map.x * product - 0.5 * own.map.y * square;
}

fn map_key(b: u32, g: u32, invocation: u32) {
    var largest: array<f32, REDUCED>;
    largest[0] = NOTHING;
    for (var row = invocation; row < params.rows; row += COLUMNS * LANES) {
        wg_key[row] = log_feature(wg_key[row]);
        largest[0] = max(largest[0], wg_key[row]);
    }
    all_max(invocation, &largest);
    let top = largest[0];
    if (invocation == 0u) {
        let at = params.extra_state + b * params.kv_heads + g;
        count_load(1u);
        let before = state[at];
        let log = log_of(b, g);
        wg_running_max = risen(before, log, top);
        wg_decay = running_max_decay((before - wg_running_max) + log);
        count_store(1u);
        state[at] = wg_running_max;
    }
    workgroupBarrier();
    for (var row = invocation; row < params.rows; row += COLUMNS * LANES) {
        wg_key[row] = own.map.z * exp_down(vec4<f32>(wg_key[row] - wg_running_max)).x;
    }
}

fn map_query(invocation: u32) {
    var largest: array<f32, REDUCED>;
    largest[0] = NOTHING;
    for (var row = invocation; row < params.rows; row += COLUMNS * LANES) {
        wg_query[row] = log_feature(wg_query[row]);
        largest[0] = max(largest[0], wg_query[row]);
    }
    all_max(invocation, &largest);
    let top = largest[0];
    for (var row = invocation; row < params.rows; row += COLUMNS * LANES) {
        wg_query[row] = own.map.z * exp_down(vec4<f32>(wg_query[row] - top)).x;
    }
    if (invocation == 0u) {
        wg_log = wg_running_max + top;
    }
}

fn normalize_one(sum: f32, weight: f32) -> f32 {
    if (NORMALIZE == 0u) {
        // In two steps, because the whole factor may overflow.
        let half = exp_of(0.5 * wg_log);
        return sum * half * half;
    }
    let divisor = weight + params.norm_eps * exp_of(-wg_log);
    return lifted_quotient(vec4<f32>(sum), divisor).x;
}
