// Adds the sums of all splits of K in their order, and finishes the products: an invocation has four neighbouring elements
// of o.
// Grid: groups of 64 times four elements, none of two outputs. Reads partials and what follows the sums; writes o.
//
// Consts of the prelude: SPLITS, OUTPUTS. Needs finish.wgsl with its fragments, and one each of bias and partials_*.
@compute @workgroup_size(64)
fn primitives_matmul_merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let own = params.outputs[output_of(index)];
    let at = (index - own.tile) * 64u + invocation;
    // A line of o is a row of x, or a row of the weight.
    let by_rows = own.column == 1u;
    let fours = (select(params.rows, own.end, by_rows) + 3u) / 4u;
    let line = at / fours;
    let first = at % fours * 4u;
    if (line >= select(own.end, params.rows, by_rows)) {
        return;
    }
    let n = select(first, line, by_rows);
    let m = select(line, first, by_rows);
    let elements = four_of(first, select(params.rows, own.end, by_rows));
    let place = own.offset + n * own.row + m * own.column;
    var biases = load_bias(own.first + m, select(1u, elements, by_rows));
    biases = select(vec4<f32>(biases.x), biases, by_rows);
    var sums = biases;
    for (var split = 0u; split < SPLITS; split++) {
        sums += load_partials(split * params.total + place, elements);
    }
    finish(place, elements, sums);
}
