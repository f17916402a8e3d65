// Log decays -exp(a_log) softplus(a + dt_bias), with a_log and dt_bias of the head.
@group(0) @binding(GATE_WEIGHTS_BINDING) var<storage, read> gate_weights: array<f32>; // packed: a_log V, then dt_bias V if given

override BIASED: u32 = 0u; // 1: there is a dt_bias

fn gate_of(head: u32, a: f32) -> f32 {
    var x = a;
    if (BIASED == 1u) {
        count_load(1u);
        x += gate_weights[params.bias + head];
    }
    count_load(1u);
    return -exponential(clamp(gate_weights[head], -87.0, 88.0)) * softplus(x);
}
