// Rounds the sums of the outputs of several runs to the storage type of o. Grid: blocks of 64 elements of a head, heads.
struct Params {
    grid: Grid,
    heads: u32,
    dim: u32,      // E
    elements: u32, // N E, of one head
    blocks: u32,   // workgroups per head
    sums: Strides,
    o: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(SUMS_BINDING) var<storage, read> sums: array<f32>; // B H N E
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Elem>; // B H N E

@compute @workgroup_size(64)
fn recurrence_round(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let element = index % params.blocks * 64u + invocation;
    if (index >= params.grid.end || element >= params.elements) {
        return;
    }
    let b = index / params.blocks / params.heads;
    let h = index / params.blocks % params.heads;
    let n = element / params.dim;
    let e = element % params.dim;
    count_load(1u);
    count_store(1u);
    o[head_start(params.o, b, h) + n * params.o.token + e] =
        Elem(sums[head_start(params.sums, b, h) + n * params.sums.token + e]);
}
