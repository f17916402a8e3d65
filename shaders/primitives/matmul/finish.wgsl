// What follows the sums of a product: four neighbouring elements of o, whose first is `at` and of which `elements` are there.
fn finish(at: u32, elements: u32, sums: vec4<f32>) {
    let values = with_times(at, elements, activated(sums)) * params.scale;
    count_store(elements);
    store_o(at, elements, with_residual(at, elements, values));
}
