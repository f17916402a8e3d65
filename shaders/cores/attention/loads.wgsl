// Loads four consecutive elements of a row of q, k or v, with zeros past the head dimension.
@group(0) @binding(Q_BINDING) var<storage, read> q: array<Elem>; // B H N D
@group(0) @binding(K_BINDING) var<storage, read> k: array<KeyElem>; // B G M D
@group(0) @binding(V_BINDING) var<storage, read> v: array<KeyElem>; // B G M E

fn load_q(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return f32(q[at + d]);
}

fn load_k(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return f32(k[at + d]);
}

fn load_v(at: u32, e: u32) -> f32 {
    if (e >= params.dim_v) {
        return 0.0;
    }
    count_load(1u);
    return f32(v[at + e]);
}

fn load_q4(at: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(load_q(at, d), load_q(at, d + 1u), load_q(at, d + 2u), load_q(at, d + 3u));
}

fn load_k4(at: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(load_k(at, d), load_k(at, d + 1u), load_k(at, d + 2u), load_k(at, d + 3u));
}

fn load_v4(at: u32, e: u32) -> vec4<f32> {
    return vec4<f32>(load_v(at, e), load_v(at, e + 1u), load_v(at, e + 2u), load_v(at, e + 3u));
}
