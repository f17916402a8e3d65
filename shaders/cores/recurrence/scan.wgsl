// Recurrence, between the passes: a left-to-right scan over the segment states, one invocation per state element.
// Grid: state elements in blocks of 64, KV heads of carried states. Reads and writes segments, [B G][segments][segment_stride],
// and state, packed as B G rows E, then B G rows; packed sequences have S states in the place of B.
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>;

override CARRY: u32 = 0u; // 1: there is a carried `state`; 0: the binding is not used
override MODE: u32 = 0u;  // 0: each segment gets the sum of all earlier ones; 1: the first segment gets the sum of all; 2: the
                          // last state is copied to `state`; 3: `state` is copied to the first segment
override DECAY: u32 = 0u; // decay of the earlier state across a segment: 0 none, 1 one factor, 2 one factor per row
override POSITION: u32 = 0u; // 1: `state` holds a position per KV head, to be advanced by all tokens

// 1: states are relative to e^running_max, with one running maximum per KV head. In a segment the log decay follows the state,
// then its running maximum, then that of its initial state. MODE 4: the carried running maximum goes to the first segment, in a
// dispatch of its own, before each element reads it.
override RUNNING_MAX: u32 = 0u;

// Segments whose loads are issued together.
const GROUP: u32 = 8u;

@compute @workgroup_size(64)
fn recurrence_scan(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let blocks = (params.state_len + 63u) / 64u;
    let element = select(index % blocks * 64u, 0u, MODE == 4u) + invocation;
    let unit = select(index / blocks, index, MODE == 4u);
    if (element >= params.state_len) {
        return;
    }
    let own_segments = segments_of(unit);
    // First segment: its log decay, its running maximum, the running maximum of its initial state.
    let home_segment = (own_segments.kv * params.stored_segments + own_segments.first) * params.segment_stride;
    let passed = home_segment + params.state_len;
    if (MODE == 4u) {
        if (element == 0u) {
            count_load(1u);
            count_store(1u);
            segments[passed + 2u] = state[params.extra_state + unit];
        }
        return;
    }
    var running_max = NOTHING;
    if (RUNNING_MAX == 1u && CARRY == 1u && MODE < 2u) {
        count_load(1u);
        running_max = segments[passed + 2u];
    }
    let size = params.rows * params.dim_v;
    let is_norm = element >= size;
    let matrix = unit * size + initial_state_at(element / params.dim_v, element % params.dim_v);
    let home = select(matrix, params.norm_offset + unit * params.rows + element - size, is_norm);
    var sum = 0.0;
    if (CARRY == 1u && MODE != 2u) {
        count_load(1u);
        sum = state[home];
    }
    let first = home_segment + element;
    if (MODE == 3u) {
        count_store(1u);
        segments[first] = sum;
        return;
    }
    let row = select(0u, select(element / params.dim_v, element - size, is_norm), DECAY == 2u);
    let decayed = DECAY != 0u && MODE != 2u;
    for (var start = 0u; start < own_segments.count; start += GROUP) {
        // The loads of several segments are issued together, which hides their latency.
        var owns: array<f32, GROUP>;
        var logs: array<f32, GROUP>;
        var tops: array<f32, GROUP>;
        for (var i = 0u; i < GROUP; i++) {
            let of_segment = min(start + i, own_segments.count - 1u) * params.segment_stride;
            let counted = u32(start + i < own_segments.count);
            count_load(counted);
            owns[i] = segments[first + of_segment];
            if (decayed) {
                count_load(counted);
                logs[i] = segments[passed + row + of_segment];
            }
            if (RUNNING_MAX == 1u) {
                count_load(select(0u, counted, MODE != 2u || element == 0u));
                tops[i] = segments[passed + 1u + of_segment];
            }
        }
        for (var i = 0u; i < GROUP; i++) {
            if (start + i >= own_segments.count) {
                break;
            }
            let of_segment = (start + i) * params.segment_stride;
            if (MODE == 0u) {
                count_store(1u);
                segments[first + of_segment] = sum;
            }
            var own = owns[i];
            if (RUNNING_MAX == 1u && MODE == 2u) {
                running_max = tops[i];
            } else if (RUNNING_MAX == 1u) {
                if (MODE == 0u && element == 0u && (CARRY == 0u || start + i > 0u)) {
                    count_store(1u);
                    segments[passed + 2u + of_segment] = running_max;
                }
                let next = risen(running_max, logs[i], tops[i]);
                sum = left_of(vec4<f32>(running_max_decay((running_max - next) + logs[i])), vec4<f32>(sum)).x;
                own = left_of(vec4<f32>(running_max_decay(tops[i] - next)), vec4<f32>(own)).x;
                running_max = next;
            } else if (decayed) {
                sum = left_of(vec4<f32>(decay_of(logs[i])), vec4<f32>(sum)).x;
            }
            sum += own;
        }
    }
    if (MODE == 1u) {
        count_store(1u);
        segments[first] = sum;
        if (RUNNING_MAX == 1u && element == 0u) {
            count_store(1u);
            segments[passed + 2u] = running_max;
        }
    }
    if (CARRY == 1u) {
        count_store(1u);
        state[home] = sum;
        if (RUNNING_MAX == 1u && element == 0u) {
            count_store(1u);
            state[params.extra_state + unit] = running_max;
        }
        if (POSITION == 1u && element == 0u) {
            let at = position_at(own_segments.kv, own_segments.sequence);
            let low = bitcast<u32>(state[at]) + own_segments.tokens;
            state[at + 1u] = bitcast<f32>(bitcast<u32>(state[at + 1u]) + u32(low < own_segments.tokens));
            state[at] = bitcast<f32>(low);
        }
    }
}
