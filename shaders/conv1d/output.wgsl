// Depthwise convolution. An invocation computes strips of eight tokens of a unit: a channel, or four channels next to each other.
// A workgroup has the weights of UNITS units in workgroup memory, and computes STRIPS strips of each PASSES times.
// Grid: tiles of tokens, blocks of units, outer indices. Reads x, weights, state; writes y.
//
// Prelude constants: WIDTH, STRIPS, UNITS, PASSES.
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed: weight C WIDTH; bias C

override BIASED: u32 = 0u; // 1: there is a bias
override SILU: u32 = 1u;   // activation: 1 SiLU, 0 none

const INVOCATIONS: u32 = STRIPS * UNITS;

// Eight tokens.
struct Strip {
    first: Four,
    second: Four,
}

// The weights of all units, tap by tap; behind them the biases, or zeros.
var<workgroup> wg_taps: array<Tap, (WIDTH + 1u) * UNITS>;

fn load_tap(channel: u32, w: u32) -> Tap {
    var tap = Tap();
    if (w == WIDTH && BIASED == 0u) {
        return tap;
    }
    count_load(CHANNELS);
    for (var c = 0u; c < CHANNELS; c++) {
        let at = select((channel + c) * WIDTH + w, params.bias + channel + c, w == WIDTH);
        tap = with_channel(tap, c, weights[at]);
    }
    return tap;
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
    let tile = index % params.tiles;
    let block = index / params.tiles;
    let outer = block / params.blocks;
    let first_unit = block % params.blocks * UNITS;
    for (var i = invocation; i < (WIDTH + 1u) * UNITS; i += INVOCATIONS) {
        let unit = first_unit + i % UNITS;
        if (unit < params.units) {
            wg_taps[i] = load_tap(placed(outer, unit * CHANNELS).channel, i / UNITS);
        }
    }
    workgroupBarrier();
    // Invocations next to each other process neighbours in memory: strips of a row, or channels of a token.
    let last = CHANNELS_LAST == 1u;
    let local = select(invocation / STRIPS, invocation % UNITS, last);
    let strip = select(invocation % STRIPS, invocation / UNITS, last);
    let unit = first_unit + local;
    if (unit >= params.units) {
        return;
    }
    let place = placed(outer, unit * CHANNELS);
    for (var turn = 0u; turn < PASSES; turn++) {
        let token = ((tile * PASSES + turn) * STRIPS + strip) * 8u;
        if (token < params.length) {
            let own = spans(token);
            let bias = four_of(wg_taps[WIDTH * UNITS + local]);
            var sum = convolved(place, local, token, begun(place, local, Strip(bias, bias), own), own);
            if (SILU == 1u) {
                sum = Strip(activated(sum.first), activated(sum.second));
            }
            store(place, token, sum.first);
            store(place, token + 4u, sum.second);
        }
    }
}
