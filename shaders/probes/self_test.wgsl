// Tests whether the driver computes what WGSL defines: a loop longer than 65535 iterations and, by the fragment, pairs of f16.
// Grid: one workgroup. Writes found: the iterations counted, a hash that each of them changes, and what unpack() returns.
struct Params {
    grid: Grid,
    rounds: u32, // iterations of the loop
    seed: u32,   // the hash before the first, not 0
    pairs: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(FOUND_BINDING) var<storage, read_write> found: array<u32>;

@compute @workgroup_size(1)
fn probes_self_test(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    if (group_index(params.grid, group, groups) >= params.grid.end) {
        return;
    }
    var count = 0u;
    // The hash keeps a compiler from replacing the loop by a formula.
    var hash = params.seed;
    for (var i = 0u; i < params.rounds; i++) {
        hash ^= hash << 13u;
        hash ^= hash >> 17u;
        hash ^= hash << 5u;
        count++;
    }
    found[0] = count;
    found[1] = hash;
    let first = unpack(params.pairs.x);
    let second = unpack(params.pairs.y);
    found[2] = first.x;
    found[3] = first.y;
    found[4] = second.x;
    found[5] = second.y;
}
