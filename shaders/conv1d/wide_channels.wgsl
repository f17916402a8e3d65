// Loads of x and stores of y, four channels of a token at once: axes B N C, C a multiple of four. Loads have no branches: before
// the first token and behind the last they read another and give zeros.
@group(0) @binding(X_BINDING) var<storage, read> x: array<vec4<Elem>>; // B N C
@group(0) @binding(Y_BINDING) var<storage, read_write> y: array<vec4<Elem>>; // B N C

fn load_one(place: Place, token: i32) -> vec4<f32> {
    count_load(4u);
    let last = i32(params.length) - 1;
    let found = x[(place.start + u32(clamp(token, 0, last)) * params.channels) / 4u];
    return select(vec4<f32>(0.0), vec4<f32>(found), token >= 0 && token <= last);
}

// Tokens `first` to first + 3.
fn load(place: Place, first: i32) -> Four {
    return mat4x4<f32>(
        load_one(place, first),
        load_one(place, first + 1),
        load_one(place, first + 2),
        load_one(place, first + 3),
    );
}

fn store_one(place: Place, token: u32, values: vec4<f32>) {
    if (token < params.length) {
        count_store(4u);
        y[(place.start + token * params.channels) / 4u] = vec4<Elem>(values);
    }
}

fn store(place: Place, first: u32, four: Four) {
    store_one(place, first, four[0]);
    store_one(place, first + 1u, four[1]);
    store_one(place, first + 2u, four[2]);
    store_one(place, first + 3u, four[3]);
}
