// Convolution of one token, and the state after it. An invocation processes a row (batch, channel).
// Grid: blocks of 64 rows. Reads x, weights, state; writes y, state.
//
// Prelude constants: WIDTH.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B C
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed: weight C WIDTH; bias C
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>; // B C states, oldest first
@group(0) @binding(Y_BINDING) var<storage, read_write> y: array<Elem>; // B C

override BIASED: u32 = 0u; // 1: there is a bias
override SILU: u32 = 1u;   // activation: 1 SiLU, 0 none

@compute @workgroup_size(64)
fn conv1d_decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let row = index * 64u + invocation;
    if (index >= params.grid.end || row >= params.units) {
        return;
    }
    let channel = row % params.channels;
    let states = params.states;
    let start = row * states;
    var sum = 0.0;
    if (BIASED == 1u) {
        count_load(1u);
        sum = weights[params.bias + channel];
    }
    count_load(1u);
    let newest = f32(x[row - params.base]);
    // The next tap, and its place in the state.
    var w = 0u;
    var due = 0u;
    // Four elements are loaded before the first of them is overwritten, so that their loads do not wait for each other.
    for (var i = 0u; i < states; i += 4u) {
        let at = start + min(vec4<u32>(i, i + 1u, i + 2u, i + 3u), vec4<u32>(states - 1u));
        var four = vec4<f32>(state[at.x], state[at.y], state[at.z], state[at.w]);
        for (var e = 0u; e < min(4u, states - i); e++) {
            count_load(1u);
            if (i + e == due) {
                count_load(1u);
                sum += weights[channel * WIDTH + w] * four[e];
                w++;
                due += params.dilation;
            }
            if (i + e > 0u) {
                count_store(1u);
                state[start + i + e - 1u] = four[e];
            }
        }
    }
    count_load(1u);
    count_store(2u);
    sum += weights[channel * WIDTH + w] * newest;
    state[start + states - 1u] = newest;
    y[row - params.base] = Elem(select(sum, silu(sum), SILU == 1u));
}
