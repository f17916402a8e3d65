// Loads of q (wide.wgsl).
@group(0) @binding(Q_BINDING) var<storage, read> q: array<Row>; // queries: B, heads of q, N, D

fn load_q(row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(q[(row + min(d, params.dim_k - 4u)) / 4u]);
}
