// A number for each pair of a query and a key, which is added to their score.
@group(0) @binding(BIAS_BINDING) var<storage, read> bias: array<Elem>; // 1|B 1|H N M

fn bias_row(b: u32, h: u32, n: u32) -> u32 {
    return head_start(params.bias, b, h) + n * params.bias.token;
}

fn bias_at(at: u32) -> f32 {
    count_load(1u);
    return f32(bias[at]);
}
