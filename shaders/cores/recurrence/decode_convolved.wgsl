// Decode: elements of keys, queries and values after a short convolution. They are columns of the rows of one tensor, whose
// strides params.q, params.k and params.v are; a bias and SiLU may follow the sum. Needs lib/activations.wgsl.
//
// Prelude constant: WIDTH, taps per column. The operator defines tap(channel, w) and tap_bias(channel), and one of
// decode_history.wgsl and decode_history_none.wgsl gives the inputs before the token.
@group(0) @binding(MIXED_BINDING) var<storage, read> mixed: array<Elem>; // B C

override CONV_BIASED: u32 = 0u; // 1: there is a bias
override CONV_SILU: u32 = 1u;   // activation: 1 SiLU, 0 none

var<workgroup> wg_columns: array<f32, COLUMNS>; // values of the columns of the workgroup

// The row of the state (batch, channel) that an element of a head has.
fn channel_row(s: Strides, b: u32, head: u32, d: u32) -> u32 {
    return head_start(s, b, head) + d;
}

// The inputs that the taps of a row meet, oldest first.
fn window(row: u32) -> array<f32, WIDTH> {
    count_load(WIDTH);
    var inputs: array<f32, WIDTH>;
    for (var w = 0u; w + 1u < WIDTH; w++) {
        inputs[w] = earlier(row, w);
    }
    inputs[WIDTH - 1u] = f32(mixed[row]);
    return inputs;
}

fn convolved(channel: u32, inputs: array<f32, WIDTH>) -> f32 {
    count_load(WIDTH + CONV_BIASED);
    var sum = 0.0;
    if (CONV_BIASED == 1u) {
        sum = tap_bias(channel);
    }
    for (var w = 0u; w < WIDTH; w++) {
        sum += tap(channel, w) * inputs[w];
    }
    return select(sum, silu(sum), CONV_SILU == 1u);
}

fn element(s: Strides, b: u32, head: u32, d: u32) -> f32 {
    return convolved(channel_row(s, 0u, head, d), window(channel_row(s, b, head, d)));
}

fn key_element(b: u32, head: u32, d: u32) -> f32 {
    return element(params.k, b, head, d);
}

fn query_element(b: u32, head: u32, d: u32) -> f32 {
    return element(params.q, b, head, d);
}

// No other workgroup reads the values of these columns, so that their inputs are kept at once.
fn prepare_values(b: u32, g: u32, first: u32, invocation: u32) {
    let e = first + invocation;
    if (invocation < COLUMNS && e < params.dim_v) {
        let row = channel_row(params.v, b, g, e);
        let inputs = window(row);
        wg_columns[invocation] = convolved(channel_row(params.v, 0u, g, e), inputs);
        keep(row, inputs);
    }
    workgroupBarrier();
}

fn value_element(b: u32, g: u32, e: u32) -> f32 {
    return wg_columns[e % COLUMNS];
}
