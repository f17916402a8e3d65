// Between the passes: a left-to-right scan over the segments, one invocation per state and channel. Each segment gets its
// initial state.
// Grid: elements of a state in blocks of 64, sequences. Reads weights, steps; reads and writes states, state.
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed; a or a_log, C S, comes first
@group(0) @binding(STEPS_BINDING) var<storage, read> steps: array<f32>; // [B][segments][C]
@group(0) @binding(STATES_BINDING) var<storage, read_write> states: array<f32>; // [B][segments][C][S]
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>; // B C S; packed sequences have S states in the place of B

override CARRY: u32 = 0u; // 1: there is a carried `state`; 0: the binding is not used
override MODE: u32 = 0u;  // 0: each segment gets its initial state; 1: only the first gets that of `state`; 2: `state` gets that
                          // of the first segment, which the only pass left there

// Segments whose loads are issued together.
const GROUP: u32 = 8u;

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
    let sequence = index / blocks;
    if (element >= size) {
        return;
    }
    let own_segments = segments_of(sequence);
    let home = sequence * size + element;
    if (MODE != 0u) {
        count_load(1u);
        count_store(1u);
        let first = own_segments.x * size + element;
        if (MODE == 1u) {
            states[first] = state[home];
        } else {
            state[home] = states[first];
        }
        return;
    }
    count_load(1u);
    let own_rate = rate(weights[element]);
    let channel = element / params.states;
    var sum = 0.0;
    if (CARRY == 1u) {
        count_load(1u);
        sum = state[home];
    }
    for (var start = 0u; start < own_segments.y; start += GROUP) {
        var owns: array<f32, GROUP>;
        var lengths: array<f32, GROUP>;
        for (var i = 0u; i < GROUP; i++) {
            let segment = own_segments.x + min(start + i, own_segments.y - 1u);
            count_load(select(0u, 2u, start + i < own_segments.y));
            owns[i] = states[segment * size + element];
            lengths[i] = steps[segment * params.channels + channel];
        }
        for (var i = 0u; i < GROUP; i++) {
            if (start + i < own_segments.y) {
                count_store(1u);
                states[(own_segments.x + start + i) * size + element] = sum;
                sum = power2(vec4<f32>(own_rate * lengths[i])).x * sum + owns[i];
            }
        }
    }
    if (CARRY == 1u) {
        count_store(1u);
        state[home] = sum;
    }
}
