// Rows of k and v, element by element (rows.wgsl).
alias Row = Elem;
@group(0) @binding(K_BINDING) var<storage, read> k: array<Row>; // keys: B, heads of k, M, D
@group(0) @binding(V_BINDING) var<storage, read> v: array<Row>; // values: B G M E

// True for each of the four elements from `first` on that lies within a row of length `size`.
fn within(first: u32, size: u32) -> vec4<bool> {
    return vec4<u32>(first, first + 1u, first + 2u, first + 3u) < vec4<u32>(size);
}

// Indices of four elements of the row that starts at `row`.
fn four(row: u32, first: u32, size: u32) -> vec4<u32> {
    return row + min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(size - 1u));
}

fn load_k(row: u32, d: u32) -> vec4<f32> {
    let at = four(row, d, params.dim_k);
    return vec4<f32>(f32(k[at.x]), f32(k[at.y]), f32(k[at.z]), f32(k[at.w]));
}

fn load_v(row: u32, e: u32) -> vec4<f32> {
    let at = four(row, e, params.dim_v);
    return vec4<f32>(f32(v[at.x]), f32(v[at.y]), f32(v[at.z]), f32(v[at.w]));
}
