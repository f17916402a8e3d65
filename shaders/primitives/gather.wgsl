// Weighted sum of rows, added in the order of their indices. The kernel that includes this file defines
// gather_weight(at, i) and gather_element(at, i, e), the element of the i-th row. A row with weight 0 is not read.
fn gather_sum(at: u32, count: u32, e: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < count; i++) {
        let weight = gather_weight(at, i);
        if (weight != 0.0) {
            sum += weight * gather_element(at, i, e);
        }
    }
    return sum;
}
