// Pass 2 (or the only pass, or decode): processes the tokens of a segment from its initial state and writes the gated output.
// Grid: segments, tiles of channels, groups. Reads x, dt, b, c, z, weights, states; writes y, and states at the end.
@group(0) @binding(C_BINDING) var<storage, read> c: array<Elem>; // B G S N
@group(0) @binding(Z_BINDING) var<storage, read> z: array<Elem>; // B C N
@group(0) @binding(STATES_BINDING) var<storage, read_write> states: array<f32>; // [B][stored][C][S]
@group(0) @binding(Y_BINDING) var<storage, read_write> y: array<Elem>; // B C N

override SKIP: u32 = 0u;  // 1: there is a d
override GATED: u32 = 0u; // 1: there is a z; 0: the binding is not used
override INIT: u32 = 0u;  // 1: a segment starts from `states`; 0: from zeros
override STORE: u32 = 0u; // 1: write the state after the last token to `states`

var<workgroup> wg_c: array<vec4<f32>, TILE * STATES4>;
var<workgroup> wg_y: array<f32, LANES * CHANNELS * STRIDE>;
var<workgroup> wg_d: array<f32, CHANNELS>;

fn load_c(p: Place, s: u32, n: u32, end: u32) -> f32 {
    if (s >= params.states || n >= end) {
        return 0.0;
    }
    count_load(1u);
    return f32(c[(p.unit * params.states + s) * params.length + n - params.base_b]);
}

fn load_outputs(p: Place, first: u32, end: u32, invocation: u32) {
    for (var i = invocation; i < TILE * STATES4; i += INVOCATIONS) {
        let s = i / TILE * 4u;
        let n = first + i % TILE;
        wg_c[i % TILE * STATES4 + i / TILE] =
            vec4<f32>(load_c(p, s, n, end), load_c(p, s + 1u, n, end), load_c(p, s + 2u, n, end), load_c(p, s + 3u, n, end));
    }
}

// This invocation's share of the output of token t.
fn read_states(invocation: u32, t: u32) -> f32 {
    let first = t * STATES4 + invocation / CHANNELS * ROWS4;
    var sum = vec4<f32>(0.0);
    for (var r = 0u; r < ROWS4; r++) {
        sum += wg_c[first + r] * h[r];
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

fn store_tokens(p: Place, first: u32, end: u32, invocation: u32) {
    for (var i = invocation; i < CHANNELS * TILE; i += INVOCATIONS) {
        let channel = i / TILE;
        let n = first + i % TILE;
        if (channel >= p.count || n >= end) {
            continue;
        }
        let at = channel * STRIDE + i % TILE;
        var value = 0.0;
        for (var lane = 0u; lane < LANES; lane++) {
            value += wg_y[lane * CHANNELS * STRIDE + at];
        }
        if (SKIP == 1u) {
            value += wg_d[channel] * wg_x[at];
        }
        let home = (p.row + channel) * params.length + n - params.base;
        if (GATED == 1u) {
            count_load(1u);
            value *= silu(f32(z[home]));
        }
        count_store(1u);
        y[home] = Elem(value);
    }
}

@compute @workgroup_size(INVOCATIONS)
fn mamba_output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let p = place(index);
    let end = min((p.segment + 1u) * params.segment, params.length);
    let channel = invocation % CHANNELS;
    let batch = p.unit / params.groups;
    let home = (batch * params.stored + p.segment) * params.channels + p.row + channel - batch * params.channels;
    begin(p, invocation);
    if (SKIP == 1u && invocation < CHANNELS && channel < p.count) {
        count_load(1u);
        wg_d[channel] = weights[params.d + (p.row + channel) % params.channels];
    }
    if (INIT == 1u && channel < p.count) {
        for (var r = 0u; r < ROWS4; r++) {
            let s = first_state(invocation, r);
            for (var k = 0u; k < 4u; k++) {
                if (s + k < params.states) {
                    count_load(1u);
                    h[r][k] = states[home * params.states + s + k];
                }
            }
        }
    }
    for (var first = p.segment * params.segment; first < end; first += TILE) {
        workgroupBarrier();
        load_tokens(p, first, end, invocation);
        load_outputs(p, first, end, invocation);
        workgroupBarrier();
        for (var t = 0u; t < min(TILE, end - first); t++) {
            advance(invocation, t);
            wg_y[invocation * STRIDE + t] = read_states(invocation, t);
        }
        workgroupBarrier();
        store_tokens(p, first, end, invocation);
    }
    if (STORE == 1u && channel < p.count) {
        for (var r = 0u; r < ROWS4; r++) {
            let s = first_state(invocation, r);
            for (var k = 0u; k < 4u; k++) {
                if (s + k < params.states) {
                    count_store(1u);
                    states[home * params.states + s + k] = h[r][k];
                }
            }
        }
    }
}
