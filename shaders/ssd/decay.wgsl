// The decay of a token from its step, which is also the factor of its values.
const SCALED: u32 = 1u;

fn decay_token(p: Place, n: u32) -> vec2<f32> {
    let step = step_at(p.b, p.g, n);
    return vec2<f32>(log_of(p.g, step), step);
}
