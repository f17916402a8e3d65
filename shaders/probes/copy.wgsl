// Copies four vec4s per invocation, to measure memory bandwidth.
// Grid: blocks of 1024 vec4s. Reads source; writes target.
@group(0) @binding(SOURCE_BINDING) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(SINK_BINDING) var<storage, read_write> sink: array<vec4<f32>>;

@compute @workgroup_size(256)
fn probes_copy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let first = index * 1024u + invocation;
    for (var i = 0u; i < 4u; i++) {
        let at = first + i * 256u;
        if (at < params.count) {
            sink[at] = source[at];
        }
    }
}
