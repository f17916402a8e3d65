// Between the passes: a left-to-right scan over the segments, one invocation per state and channel. Each segment gets its
// initial state.
// Grid: elements of a state in blocks of 64, batch entries. Reads weights, steps; reads and writes segments, state.
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed; a or a_log, C S, comes first
@group(0) @binding(STEPS_BINDING) var<storage, read> steps: array<f32>; // [B][segments][C]
@group(0) @binding(SEGMENTS_BINDING) var<storage, read_write> segments: array<f32>; // [B][segments][C][S]
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>; // B C S

override CARRY: u32 = 0u; // 1: there is a carried `state`; 0: the binding is not used

@compute @workgroup_size(64)
fn mamba_scan(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let size = params.channels * params.states;
    let blocks = (size + 63u) / 64u;
    let element = index % blocks * 64u + invocation;
    let batch = index / blocks;
    if (element >= size) {
        return;
    }
    count_load(1u);
    let own_rate = rate(weights[element]);
    var sum = 0.0;
    if (CARRY == 1u) {
        count_load(1u);
        sum = state[batch * size + element];
    }
    for (var i = 0u; i < params.segments; i++) {
        let segment = batch * params.segments + i;
        let at = segment * size + element;
        count_load(2u);
        count_store(1u);
        let own = segments[at];
        segments[at] = sum;
        let decay = power2(vec4<f32>(own_rate * steps[segment * params.channels + element / params.states])).x;
        sum = decay * sum + own;
    }
    if (CARRY == 1u) {
        count_store(1u);
        state[batch * size + element] = sum;
    }
}
