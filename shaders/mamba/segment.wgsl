// Pass 1: the state after the tokens of one segment, starting from zero, and the sum of its steps.
// Grid: segments, tiles of channels, groups. Reads x, dt, b, weights; writes states, steps, kept.
@group(0) @binding(STATES_BINDING) var<storage, read_write> states: array<f32>; // [B][segments][C][S]
@group(0) @binding(STEPS_BINDING) var<storage, read_write> steps: array<f32>; // [B][segments][C]

const SPACE: u32 = C_AT;

@compute @workgroup_size(INVOCATIONS)
fn mamba_segment(
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
    let segment = segment_of(p.segment, p.unit / params.groups, invocation);
    begin(p, lane, channel, invocation);
    let start = segment.first / 4u * 4u;
    fetch(p, segment, start, invocation);
    var sum = 0.0;
    for (var first = start; first < segment.end; first += TILE) {
        workgroupBarrier();
        put(p, segment, first, invocation);
        workgroupBarrier();
        if (first + TILE < segment.end) {
            fetch(p, segment, first + TILE, invocation);
        }
        for (var quad = 0u; quad < QUADS; quad++) {
            if (first + 4u * quad >= segment.end) {
                break;
            }
            let own_steps = wg_space[channel * STRIDE + quad];
            let inputs = wg_space[INPUTS_AT + channel * STRIDE + quad];
            for (var t = 0u; t < 4u; t++) {
                advance(own_steps[t], inputs[t], 4u * quad + t, lane);
                sum += own_steps[t];
            }
        }
    }
    if (channel >= p.count) {
        return;
    }
    let batch = p.unit / params.groups;
    let home = (batch * params.stored + p.segment) * params.channels + p.row + channel - batch * params.channels;
    if (lane == 0u) {
        count_store(1u);
        steps[home] = sum;
    }
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
