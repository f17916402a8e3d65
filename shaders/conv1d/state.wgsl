// Writes the carried state: the last inputs of each sequence, those of the state before if it has fewer.
// Grid: sequences, blocks of UNITS rows (batch, channel), outer indices. Reads x, state, cu_seqlens if packed; writes state.
//
// Prelude constants: LANES, invocations per row; UNITS.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B C N or B N C
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>; // B C states, oldest first

const INVOCATIONS: u32 = LANES * UNITS;

@compute @workgroup_size(INVOCATIONS)
fn conv1d_state(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let sequence = index % params.sequences;
    let block = index / params.sequences;
    let unit = block % params.blocks * UNITS + invocation / LANES;
    let place = placed(block / params.blocks, unit);
    let row = (sequence * params.channels + place.row) * params.states;
    let own = extent(sequence);
    for (var first = 0u; first < params.states; first += LANES) {
        let at = first + invocation % LANES;
        // The element among those of the state before and the sequence.
        let from_start = at + own.y - own.x;
        let is_some = unit < params.units && at < params.states;
        var kept = 0.0;
        if (is_some) {
            count_load(1u);
            if (from_start < params.states) {
                kept = state[row + from_start];
            } else {
                kept = f32(x[place.start + (own.y + at - params.states) * token_stride()]);
            }
        }
        // Elements move towards the front of the state: those that others read here must not be overwritten before.
        storageBarrier();
        if (is_some) {
            count_store(1u);
            state[row + at] = kept;
        }
    }
}
