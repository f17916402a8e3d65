// Loads of q (narrow.wgsl).
@group(0) @binding(Q_BINDING) var<storage, read> q: array<Row>; // queries: B, heads of q, N, D

fn load_q(row: u32, d: u32) -> vec4<f32> {
    let at = four(row, d, params.dim_k);
    return vec4<f32>(f32(q[at.x]), f32(q[at.y]), f32(q[at.z]), f32(q[at.w]));
}
