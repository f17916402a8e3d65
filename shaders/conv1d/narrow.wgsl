// Loads of x and stores of y, element by element: any N and C, axes in either order. Loads have no branches: before the first
// token and behind the last they read another and give zeros.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B C N or B N C
@group(0) @binding(Y_BINDING) var<storage, read_write> y: array<Elem>; // B C N or B N C

// Tokens `first` to first + 3.
fn load(place: Place, first: i32) -> Four {
    count_load(4u);
    let tokens = vec4<i32>(first, first + 1, first + 2, first + 3);
    let end = vec4<i32>(i32(params.length));
    let at = place.start + vec4<u32>(clamp(tokens, vec4<i32>(0), end - 1)) * token_stride();
    let found = vec4<f32>(f32(x[at.x]), f32(x[at.y]), f32(x[at.z]), f32(x[at.w]));
    return select(vec4<f32>(0.0), found, (tokens >= vec4<i32>(0)) & (tokens < end));
}

fn store(place: Place, first: u32, four: Four) {
    for (var token = 0u; token < 4u; token++) {
        if (first + token < params.length) {
            count_store(1u);
            y[place.start + (first + token) * token_stride()] = Elem(one_token(four, token));
        }
    }
}
