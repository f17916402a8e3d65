// The sink of a head: a score without a value, whose exponential is added to the sum of every row.
@group(0) @binding(SINK_BINDING) var<storage, read> sink: array<f32>; // H

// The maximum of a row with its sink, in units of log 2, the sum relative to it, and by how much outputs relative to `top` shrink.
fn with_sink(h: u32, top: f32, sum: f32) -> vec3<f32> {
    count_load(1u);
    let score = sink[h] * LOG2_E;
    let largest = max(top, score);
    let shrink = exp2(top - largest);
    return vec3<f32>(largest, sum * shrink + exp2(score - largest), shrink);
}
