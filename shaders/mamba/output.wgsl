// Pass 2 (or the only pass, or decode): processes the tokens of a segment from its initial state and writes the gated output.
// Grid: segments, tiles of channels, groups. Reads x, steps, b, c, z, weights, states; writes y, and states at the end.
//
// Needs loads of c and z, and stores of y.
@group(0) @binding(STATES_BINDING) var<storage, read_write> states: array<f32>; // [B][stored][C][S]

override SKIP: u32 = 0u;       // 1: there is a d
override GATED: u32 = 0u;      // 1: there is a z; 0: the binding is not used
override CONSTANT_C: u32 = 0u; // 1: c is in the weights, one vector per channel for all tokens
override INIT: u32 = 0u;       // 1: a segment starts from `states`; 0: from zeros
override STORE: u32 = 0u;      // 1: write the state after the last token to `states`
override ADDED: u32 = 0u;      // 1: add the outputs to those of a run in the other direction

const SPACE: u32 = max(C_AT + TILE * STATES4, INVOCATIONS * STRIDE);

var<private> next_c: array<vec4<f32>, STATE_TURNS>;
var<private> own_c: array<vec4<f32>, ROWS4>; // where c is constant
var<private> own_d: array<f32, TURNS>;

fn fetch_c(p: Place, segment: Segment, first: u32, invocation: u32) {
    for (var turn = 0u; turn < STATE_TURNS; turn++) {
        let s = channel_in(turn, invocation);
        let n = first + token_in(turn, invocation);
        count_load(select(0u, count_of(inside(segment, n)), s < params.states));
        next_c[turn] = load_c(p.unit, min(s, params.states - 1u), n);
    }
}

fn put_c(segment: Segment, first: u32, invocation: u32) {
    for (var turn = 0u; turn < STATE_TURNS; turn++) {
        let s = channel_in(turn, invocation);
        put_state(C_AT, s, token_in(turn, invocation), select(vec4<f32>(0.0), next_c[turn], s < params.states));
    }
}

// This invocation's share of the output of token t of the tile.
fn read_states(t: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var r = 0u; r < ROWS4; r++) {
        var c = own_c[r];
        if (CONSTANT_C == 0u) {
            c = wg_space[C_AT + t * STATES4 + lane * ROWS4 + r];
        }
        sum += c.x * h[r].x;
        sum += c.y * h[r].y;
        sum += c.z * h[r].z;
        sum += c.w * h[r].w;
    }
    return sum;
}

// Adds the shares of all lanes, skips and gates, and stores the outputs of a tile.
fn finish(p: Place, segment: Segment, first: u32, invocation: u32) {
    for (var turn = 0u; turn < TURNS; turn++) {
        let channel = channel_in(turn, invocation);
        let n = first + token_in(turn, invocation);
        let stored = inside(segment, n);
        if (channel < p.count && count_of(stored) > 0u) {
            var values = own_d[turn] * own_x[turn];
            for (var lane = 0u; lane < LANES; lane++) {
                values += wg_space[(lane * CHANNELS + channel) * STRIDE + token_in(turn, invocation) / 4u];
            }
            if (GATED == 1u) {
                count_load(count_of(stored));
                let z = load_z(p.row + channel, n);
                values *= vec4<f32>(silu(z.x), silu(z.y), silu(z.z), silu(z.w));
            }
            store_y(p.row + channel, n, values, stored);
        }
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
    let lane = same_in_row(invocation / CHANNELS);
    let channel = invocation % CHANNELS;
    let batch = p.unit / params.groups;
    let segment = segment_of(p.segment, batch, invocation);
    let home = (batch * params.stored + p.segment) * params.channels + p.row + channel - batch * params.channels;
    begin(p, lane, channel, invocation);
    for (var turn = 0u; turn < TURNS; turn++) {
        own_d[turn] = 0.0;
        if (SKIP == 1u) {
            let own = channel_in(turn, invocation);
            count_load(u32(own < p.count));
            own_d[turn] = weights[params.d + (p.row + min(own, p.count - 1u)) % params.channels];
        }
    }
    for (var r = 0u; r < ROWS4; r++) {
        if (CONSTANT_C == 1u) {
            own_c[r] = load_weights(p, params.c, channel, lane, r);
        }
        if (INIT == 1u && channel < p.count) {
            let s = 4u * (lane * ROWS4 + r);
            for (var k = 0u; k < 4u; k++) {
                if (s + k < params.states) {
                    count_load(1u);
                    h[r][k] = states[home * params.states + s + k];
                }
            }
        }
    }
    let start = segment.first / 4u * 4u;
    fetch(p, segment, start, invocation);
    if (CONSTANT_C == 0u) {
        fetch_c(p, segment, start, invocation);
    }
    for (var first = start; first < segment.end; first += TILE) {
        workgroupBarrier();
        put(p, segment, first, invocation);
        if (CONSTANT_C == 0u) {
            put_c(segment, first, invocation);
        }
        workgroupBarrier();
        if (first + TILE < segment.end) {
            fetch(p, segment, first + TILE, invocation);
            if (CONSTANT_C == 0u) {
                fetch_c(p, segment, first + TILE, invocation);
            }
        }
        var shares: array<vec4<f32>, QUADS>;
        for (var quad = 0u; quad < QUADS; quad++) {
            if (first + 4u * quad >= segment.end) {
                break;
            }
            let steps = wg_space[channel * STRIDE + quad];
            let inputs = wg_space[INPUTS_AT + channel * STRIDE + quad];
            for (var t = 0u; t < 4u; t++) {
                advance(steps[t], inputs[t], 4u * quad + t, lane);
                shares[quad][t] = read_states(4u * quad + t, lane);
            }
        }
        workgroupBarrier();
        for (var quad = 0u; quad < QUADS; quad++) {
            wg_space[invocation * STRIDE + quad] = shares[quad];
        }
        workgroupBarrier();
        finish(p, segment, first, invocation);
    }
    if (STORE == 1u && channel < p.count) {
        for (var r = 0u; r < ROWS4; r++) {
            let s = 4u * (lane * ROWS4 + r);
            for (var k = 0u; k < 4u; k++) {
                if (s + k < params.states) {
                    count_store(1u);
                    states[home * params.states + s + k] = h[r][k];
                }
            }
        }
    }
}
