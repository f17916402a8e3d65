// A of the exact map: products of components i <= j of the unit vector, which is stored in its place, j fastest, times sqrt
// 2 if i < j.
var<workgroup> wg_u: array<vec4<f32>, VECTORS * SQUARES4>;

fn stored_at(i: u32) -> u32 {
    return i;
}

fn keep(vector: u32, i: u32, value: vec4<f32>) {
    if (i >= SQUARES4) {
        wg_e[vector * E4 + i - SQUARES4] = value;
        return;
    }
    wg_u[vector * SQUARES4 + i] = value;
}

fn component(vector: u32, d: u32) -> f32 {
    return wg_u[vector * SQUARES4 + d / 4u][d % 4u];
}

fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {
    let first = select(TILE, 0u, keys);
    let count = select(TILE, VECTORS, queries) - first;
    workgroupBarrier();
    for (var i = invocation; i < count * 4u * PAL4; i += INVOCATIONS) {
        let entry = i % (4u * PAL4);
        let vector = first + i / (4u * PAL4);
        var a = 0.0;
        if (entry < PAL && own.first_poly + entry < own.poly) {
            let pair = components_of(own.first_poly + entry);
            a = component(vector, pair.x) * component(vector, pair.y) * select(1.4142135, 1.0, pair.x == pair.y);
        }
        wg_a[first * 4u * PAL4 + i] = a;
    }
}
