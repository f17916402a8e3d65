// performer with a log decay per KV head, decode.
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<Gate>; // B G 1

fn log_of(b: u32, g: u32) -> f32 {
    count_load(1u);
    return f32(gate[head_start(params.g, b, g)]);
}
