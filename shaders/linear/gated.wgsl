// Decay by exp(g), with one factor per head.
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<Gate>; // B G N
const SCALED: u32 = 0u;

fn decay_token(p: Place, n: u32) -> vec2<f32> {
    count_load(1u);
    return vec2<f32>(f32(gate[head_start(params.g, p.b, p.g) + n * params.g.token]), 1.0);
}
