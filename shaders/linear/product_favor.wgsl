// performer: log features omega x - |x|^2 / 2, where x is the vector over D^(1/4), and behind them the largest of a vector.
// favor_features.wgsl makes features from these.
var<workgroup> wg_top: array<f32, VECTORS * ROW_THREADS>;

fn of_vector(square: f32, largest: f32) -> f32 {
    return 0.5 * own.map.y * square;
}

fn keep_products(home: u32, v: u32, i: u32, products: vec4<f32>) {
    let rows = 4u * i + vec4<u32>(0u, 1u, 2u, 3u);
    let logs = select(vec4<f32>(NOTHING), own.map.x * products - wg_of_vector[v], rows < vec4<u32>(RANDOM));
    count_store(4u);
    features[home * FEATURES4 + i] = logs;
    // Each invocation keeps a maximum of its own for each of its vectors.
    let at = v * ROW_THREADS + i % ROW_THREADS;
    var top = max(max(logs.x, logs.y), max(logs.z, logs.w));
    if (i >= ROW_THREADS) {
        top = max(top, wg_top[at]);
    }
    wg_top[at] = top;
}

fn finish_vectors(home: u32, count: u32, invocation: u32) {
    workgroupBarrier();
    for (var v = invocation; v < count; v += INVOCATIONS) {
        var top = NOTHING;
        for (var row_thread = 0u; row_thread < min(ROW_THREADS, PRODUCTS4); row_thread++) {
            top = max(top, wg_top[v * ROW_THREADS + row_thread]);
        }
        count_store(4u);
        features[(home + v) * FEATURES4 + PRODUCTS4] = vec4<f32>(top);
    }
}
