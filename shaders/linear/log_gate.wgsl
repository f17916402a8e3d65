// performer with a log decay per KV head.
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<Gate>; // B G N

fn log_of(p: Place, n: u32) -> f32 {
    count_load(1u);
    return f32(gate[head_start(params.g, p.b, p.g) + n * params.g.token]);
}
