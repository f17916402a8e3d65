// One token: writes the state and reads it, in one dispatch.
// Grid: key heads. Reads k, v, q; reads and writes state; writes o.
@group(0) @binding(3) var<storage, read> q: array<Elem>;          // B H 1 D
@group(0) @binding(4) var<storage, read_write> state: array<f32>; // packed: B G D E, then B G D
@group(0) @binding(5) var<storage, read_write> o: array<Elem>;    // B H 1 E

var<workgroup> wg_key: array<f32, MAX_DIM>;
var<workgroup> wg_query: array<f32, MAX_DIM>;

fn key_feature(d: u32) -> f32 {
    return wg_key[d];
}

fn query_feature(d: u32) -> f32 {
    return wg_query[d];
}

// D is at most as many as there are invocations: one feature each.
fn prepare_key(b: u32, g: u32, invocation: u32) {
    if (invocation < params.dim_k) {
        count_load(1u);
        wg_key[invocation] = feature(f32(k[head_start(params.k, b, g) + invocation]));
    }
}

fn prepare_query(b: u32, g: u32, h: u32, invocation: u32) {
    if (invocation < params.dim_k) {
        count_load(1u);
        wg_query[invocation] = feature(f32(q[head_start(params.q, b, h) + invocation]));
    }
    workgroupBarrier();
}

@compute @workgroup_size(COLUMNS * LANES)
fn linear_decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let kv = group_index(params.grid, group, groups);
    if (kv >= params.grid.end) {
        return;
    }
    decode(kv, invocation);
}
