// Updates q_tail to the last queries: those of q, and older ones from q_tail if q has too few.
// Grid: dimensions in blocks of 64, heads (batch, head). Reads q; updates q_tail.
@group(0) @binding(Q_BINDING) var<storage, read> q: array<Elem>; // B H N D
@group(0) @binding(Q_TAIL_BINDING) var<storage, read_write> q_tail: array<f32>; // B H T D

@compute @workgroup_size(64)
fn mta_tail(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let blocks = (params.dim_k + 63u) / 64u;
    let unit = index / blocks;
    let d = index % blocks * 64u + invocation;
    if (d >= params.dim_k) {
        return;
    }
    let start = head_start(params.q, unit / params.heads, unit % params.heads);
    let to = unit * params.tail;
    // Rows move forward in ascending order, so none is overwritten before it is read.
    for (var row = 0u; row < params.tail; row++) {
        let source = row + params.queries;
        count_load(1u);
        var value: f32;
        if (source < params.tail) {
            value = q_tail[(to + source) * params.dim_k + d];
        } else {
            value = f32(q[start + (source - params.tail) * params.q.token + d]);
        }
        count_store(1u);
        q_tail[(to + row) * params.dim_k + d] = value;
    }
}
