// Pass 1: the state after the tokens of one segment, starting from zero, and the sum of their steps.
// Grid: segments, tiles of channels, groups. Reads x, dt, b, weights; writes segments, steps.
@group(0) @binding(SEGMENTS_BINDING) var<storage, read_write> segments: array<f32>; // [B][segments][C][S]
@group(0) @binding(STEPS_BINDING) var<storage, read_write> steps: array<f32>; // [B][segments][C]

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
    let end = min((p.segment + 1u) * params.segment, params.length);
    begin(p, invocation);
    var sum = 0.0;
    for (var first = p.segment * params.segment; first < end; first += TILE) {
        workgroupBarrier();
        load_tokens(p, first, end, invocation);
        workgroupBarrier();
        for (var t = 0u; t < min(TILE, end - first); t++) {
            sum += advance(invocation, t);
        }
    }
    let c = invocation % CHANNELS;
    if (c >= p.count) {
        return;
    }
    let batch = p.unit / params.groups;
    let home = (batch * params.segments + p.segment) * params.channels + p.row + c - batch * params.channels;
    if (invocation < CHANNELS) {
        count_store(1u);
        steps[home] = sum;
    }
    for (var r = 0u; r < ROWS4; r++) {
        let s = first_state(invocation, r);
        for (var k = 0u; k < 4u; k++) {
            if (s + k < params.states) {
                count_store(1u);
                segments[home * params.states + s + k] = h[r][k];
            }
        }
    }
}
