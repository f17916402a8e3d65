// Bitonic sort of a tile in workgroup memory: SORT numbers, a power of two. All of them differ, except for padding. Each
// number holds its key in the high bits and its place in the low bits, which makes the sort stable.
var<workgroup> wg_sorted: array<u32, SORT>;

// Starts and ends with a barrier. Needs 256 invocations.
fn sort_tile(invocation: u32) {
    workgroupBarrier();
    for (var size = 2u; size <= SORT; size *= 2u) {
        for (var step = size / 2u; step > 0u; step /= 2u) {
            for (var i = invocation; i < SORT / 2u; i += 256u) {
                let low = i / step * 2u * step + i % step;
                let a = wg_sorted[low];
                let b = wg_sorted[low + step];
                // Every other run of this size is sorted in descending order.
                if ((a > b) == ((low & size) == 0u)) {
                    wg_sorted[low] = b;
                    wg_sorted[low + step] = a;
                }
            }
            workgroupBarrier();
        }
    }
}
