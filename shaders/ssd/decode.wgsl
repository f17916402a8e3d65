// Decode (one token): updates the state and reads it in one dispatch.
// Grid: heads. Reads b, x, c, dt, weights, z; reads and writes state; writes y.
@group(0) @binding(3) var<storage, read> q: array<Row>;          // c, B 1 G S
@group(0) @binding(4) var<storage, read_write> state: array<f32>; // B H P S
@group(0) @binding(5) var<storage, read_write> o: array<Row>;    // y, B 1 H P

var<workgroup> wg_step: f32;
var<workgroup> wg_decay: f32;

fn prepare_decay(b: u32, g: u32, invocation: u32) {
    if (invocation == 0u) {
        let step = step_at(b, g, 0u);
        wg_step = step;
        wg_decay = decay_of(log_of(g, step));
    }
}

fn decay_row(d: u32) -> f32 {
    return wg_decay;
}

fn x_at(b: u32, h: u32, e: u32) -> f32 {
    count_load(1u);
    return f32(v[head_start(params.v, b, h) + e]);
}

fn value_of(b: u32, g: u32, e: u32) -> f32 {
    return wg_step * x_at(b, g, e);
}

fn epilogue_one(b: u32, h: u32, e: u32, value: f32) -> f32 {
    var x = 0.0;
    if (SKIPPED == 1u) {
        x = x_at(b, h, e);
    }
    return gated(head_start(params.o, b, h) + e, skipped(h, x, value));
}

@compute @workgroup_size(COLUMNS * LANES)
fn ssd_decode(
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
