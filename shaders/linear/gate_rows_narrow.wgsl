// Log decays of the rows of a state, element by element.
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<Gate>; // B G N D'

fn log_at(at: u32, d: u32, counted: bool) -> f32 {
    count_load(select(0u, 1u, counted && d < params.rows));
    return select(0.0, f32(gate[at + min(d, params.rows - 1u)]), d < params.rows);
}

// Log decays of four rows of a workgroup's state, from row 4 i on, for the token whose log decays start at `at`.
fn logs_of(at: u32, i: u32, counted: bool) -> vec4<f32> {
    return vec4<f32>(
        log_at(at, state_row(4u * i), counted),
        log_at(at, state_row(4u * i + 1u), counted),
        log_at(at, state_row(4u * i + 2u), counted),
        log_at(at, state_row(4u * i + 3u), counted),
    );
}
