// Decay by exp(g), decode. Prelude constant: DECAY, 1 or 2.
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<Gate>; // B G 1, or B G 1 D'

var<workgroup> wg_decay: array<f32, MAX_DIM>;

fn prepare_decay(b: u32, g: u32, invocation: u32) {
    for (var d = invocation; d < select(1u, params.rows, DECAY == 2u); d += COLUMNS * LANES) {
        count_load(1u);
        wg_decay[d] = decay_of(f32(gate[head_start(params.g, b, g) + token * params.g.token + d]));
    }
}

fn decay_row(d: u32) -> f32 {
    return wg_decay[select(0u, d, DECAY == 2u)];
}
