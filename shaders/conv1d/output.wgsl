// Causal depthwise convolution. A workgroup computes TILE tokens of ROWS rows (batch, channel); it loads their inputs, and the
// inputs before them, into workgroup memory.
// Grid: tiles of tokens, blocks of rows. Reads x, weights, state; writes y, and the state if one tile covers all tokens.
//
// Prelude constants: WIDTH, TILE, ROWS.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B C N
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed: weight C WIDTH; bias C
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>; // B C WIDTH-1, oldest first
@group(0) @binding(Y_BINDING) var<storage, read_write> y: array<Elem>; // B C N

override BIASED: u32 = 0u; // 1: there is a bias
override SILU: u32 = 1u;   // activation: 1 SiLU, 0 none
override CARRY: u32 = 0u;  // 1: the inputs before the first token come from `state`; 0: they are zeros
override STORE: u32 = 0u;  // 1: write the last inputs to `state`

const SPAN: u32 = TILE + BEFORE;
const INVOCATIONS: u32 = min(256u, TILE * ROWS);
// Floats per row in wg_taps: the weights, then the bias or zero.
const TAPS: u32 = WIDTH + 1u;

var<workgroup> wg_x: array<f32, ROWS * SPAN>;
var<workgroup> wg_taps: array<f32, ROWS * TAPS>;

// Input `at - BEFORE` of a row; zero if there is none.
fn load(row: u32, at: u32) -> f32 {
    if (row >= params.rows || at >= params.length + BEFORE) {
        return 0.0;
    }
    if (at < BEFORE) {
        if (CARRY == 0u) {
            return 0.0;
        }
        count_load(1u);
        return state[row * BEFORE + at];
    }
    count_load(1u);
    return f32(x[row * params.length + at - BEFORE - params.base]);
}

fn load_tap(row: u32, w: u32) -> f32 {
    if (row >= params.rows || (w == WIDTH && BIASED == 0u)) {
        return 0.0;
    }
    let channel = row % params.channels;
    count_load(1u);
    return weights[select(channel * WIDTH + w, params.bias + channel, w == WIDTH)];
}

@compute @workgroup_size(INVOCATIONS)
fn conv1d_output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let first = index % params.tiles * TILE;
    let first_row = index / params.tiles * ROWS;
    for (var i = invocation; i < ROWS * SPAN; i += INVOCATIONS) {
        wg_x[i] = load(first_row + i / SPAN, first + i % SPAN);
    }
    for (var i = invocation; i < ROWS * TAPS; i += INVOCATIONS) {
        wg_taps[i] = load_tap(first_row + i / TAPS, i % TAPS);
    }
    workgroupBarrier();
    for (var i = invocation; i < ROWS * TILE; i += INVOCATIONS) {
        let r = i / TILE;
        let row = first_row + r;
        let n = first + i % TILE;
        var sum = wg_taps[r * TAPS + WIDTH];
        for (var w = 0u; w < WIDTH; w++) {
            sum += wg_taps[r * TAPS + w] * wg_x[r * SPAN + i % TILE + w];
        }
        if (row < params.rows && n < params.length) {
            count_store(1u);
            y[row * params.length + n - params.base] = Elem(select(sum, silu(sum), SILU == 1u));
        }
    }
    if (STORE == 1u) {
        for (var i = invocation; i < ROWS * BEFORE; i += INVOCATIONS) {
            let r = i / max(BEFORE, 1u);
            let at = i - r * BEFORE;
            if (first_row + r < params.rows) {
                count_store(1u);
                state[(first_row + r) * BEFORE + at] = wg_x[r * SPAN + params.length + at];
            }
        }
    }
}
