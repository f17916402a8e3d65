// Sorts a tile in workgroup memory: SORT numbers, a power of two, all different but for what only fills the tile. In a
// number what it falls into stands above its place, so that the sort is stable by what it falls into.
var<workgroup> wg_sorted: array<u32, SORT>;

// Barriers before and behind. Of 256 invocations.
fn sort_tile(invocation: u32) {
    workgroupBarrier();
    for (var size = 2u; size <= SORT; size *= 2u) {
        for (var step = size / 2u; step > 0u; step /= 2u) {
            for (var i = invocation; i < SORT / 2u; i += 256u) {
                let low = i / step * 2u * step + i % step;
                let a = wg_sorted[low];
                let b = wg_sorted[low + step];
                // Every other run of this size goes down.
                if ((a > b) == ((low & size) == 0u)) {
                    wg_sorted[low] = b;
                    wg_sorted[low + step] = a;
                }
            }
            workgroupBarrier();
        }
    }
}
