// The components i <= j of an entry of the exact map, j fastest.
fn components_of(entry: u32) -> vec2<u32> {
    var rest = entry;
    var row = 0u;
    while (rest >= params.dim_k - row) {
        rest -= params.dim_k - row;
        row++;
    }
    return vec2<u32>(row, row + rest);
}
