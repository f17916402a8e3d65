// The tiles of a product, of ROWS by COLUMNS, over a split of K.
struct Tile {
    row: u32, // first row of x
    output: u32,
    column: u32, // first column of the output
    start: u32,  // columns of x
    end: u32,
}

fn tile_of(index: u32) -> Tile {
    let rest = index / params.row_tiles;
    let tile = rest % params.column_tiles;
    let output = output_of(tile);
    let column = params.outputs[output].start + (tile - params.outputs[output].tile) * COLUMNS;
    let split = rest / params.column_tiles;
    let start = split * params.split_len;
    own_split = split;
    let row = params.first_row + index % params.row_tiles * ROWS;
    return Tile(row, output, column, start, min(start + params.split_len, params.inner));
}
