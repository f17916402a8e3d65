// Log decays of the rows of a state, four elements at once: D' and starts are multiples of four, so that four rows of a
// workgroup follow each other in the tensor too.
@group(0) @binding(GATE_BINDING) var<storage, read> gate: array<vec4<Gate>>; // B G N D'

// Log decays of four rows of a workgroup's state, from row 4 i on, for the token whose log decays start at `at`.
fn logs_of(at: u32, i: u32, counted: bool) -> vec4<f32> {
    let d = state_row(4u * i);
    count_load(select(0u, 4u, counted && d < params.rows));
    let logs = vec4<f32>(gate[(at + min(d, params.rows - 4u)) / 4u]);
    return select(vec4<f32>(0.0), logs, d < params.rows);
}
