// Rows of a table by index, times a scale, plus the rows of the tokens' positions in a second table. An index behind the table
// takes its last row. Tokens whose row is in no part of the table that is bound are left to another dispatch.
// Grid: blocks of 64 pieces of COLUMNS columns. Reads indices, table, positions, position; writes o.
@group(0) @binding(INDICES_BINDING) var<storage, read> indices: array<u32>; // N
@group(0) @binding(POSITIONS_BINDING) var<storage, read> positions: array<Columns>; // L D; a dummy if there are none
@group(0) @binding(POSITION_BINDING) var<storage, read> position: array<u32>; // 1; a dummy if it is not needed
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Stored>; // N D

override POSITIONS: u32 = 0u; // whether there is a second table
override CARRIED: u32 = 0u; // whether `position` has the number of tokens up to the last of this run; otherwise these are the first

@compute @workgroup_size(64)
fn primitives_embedding(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let pieces = params.dim / COLUMNS;
    let at = index * 64u + invocation;
    let n = at / pieces;
    let e = at % pieces;
    if (index >= params.grid.end || n >= params.tokens) {
        return;
    }
    count_load(1u);
    let row = min(indices[n], params.vocab - 1u);
    if (row < params.first || row >= params.end) {
        return;
    }
    var value = params.scale * load_table(row * pieces + e - params.base / COLUMNS);
    if (POSITIONS > 0u) {
        var before = 0u;
        if (CARRIED > 0u) {
            count_load(1u);
            before = position[0] - params.tokens;
        }
        count_load(COLUMNS);
        value += positions[min(before + n, params.positions - 1u) * pieces + e];
    }
    count_store(COLUMNS);
    o[at] = Stored(value);
}
