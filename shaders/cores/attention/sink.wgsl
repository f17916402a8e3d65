// The sink of a head: a score without a value, whose exponential is added to the sum of every row.
@group(0) @binding(SINK_BINDING) var<storage, read> sink: array<f32>; // H

const SINK: bool = true;

// In units of log 2, as the scores are.
fn sink_of(h: u32) -> f32 {
    count_load(1u);
    return sink[h] * LOG2_E;
}
