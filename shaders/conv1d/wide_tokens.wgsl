// Loads of x and stores of y, four tokens of a channel at once: axes B C N, N a multiple of four. Loads have no branches: past
// either end of a row they read some of its elements and give zeros.
@group(0) @binding(X_BINDING) var<storage, read> x: array<vec4<Elem>>; // B C N
@group(0) @binding(Y_BINDING) var<storage, read_write> y: array<vec4<Elem>>; // B C N

// Tokens `first` to first + 3, for multiples of four.
fn load(place: Place, first: i32) -> Four {
    count_load(4u);
    let end = i32(params.length);
    let found = x[(place.start + u32(clamp(first, 0, end - 4))) / 4u];
    return select(vec4<f32>(0.0), vec4<f32>(found), first >= 0 && first < end);
}

fn store(place: Place, first: u32, four: Four) {
    if (first < params.length) {
        count_store(4u);
        y[(place.start + first) / 4u] = vec4<Elem>(four);
    }
}
