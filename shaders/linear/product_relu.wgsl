// performer-relu: features max(omega x, 0).
fn of_vector(square: f32, largest: f32) -> f32 {
    return 0.0;
}

fn keep_products(home: u32, v: u32, i: u32, products: vec4<f32>) {
    count_store(4u);
    features[home * FEATURES4 + i] = max(products, vec4<f32>(0.0));
}
