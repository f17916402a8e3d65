// Rows of k and v, four elements at once (rows.wgsl): D, E, strides and starts are multiples of four.
alias Row = vec4<Elem>;
@group(0) @binding(K_BINDING) var<storage, read> k: array<Row>; // keys: B, heads of k, M, D
@group(0) @binding(V_BINDING) var<storage, read> v: array<Row>; // values: B G M E

// True where the four elements from `first` on lie within a row of length `size`: all of them do, or none.
fn within(first: u32, size: u32) -> vec4<bool> {
    return vec4<bool>(first < size);
}

fn load_k(row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(k[(row + min(d, params.dim_k - 4u)) / 4u]);
}

fn load_v(row: u32, e: u32) -> vec4<f32> {
    return vec4<f32>(v[(row + min(e, params.dim_v - 4u)) / 4u]);
}
