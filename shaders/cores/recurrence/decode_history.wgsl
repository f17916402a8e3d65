// Decode: the inputs of a convolution before the token, and who keeps the token's (decode_convolved.wgsl).
//
// Several workgroups convolve the same keys and queries, and one of them must keep their inputs after all have loaded them.
// Each counts itself when it has loaded its own; the last one keeps them. A workgroup counts itself behind a barrier that no
// invocation passes before its vectors are in workgroup memory, so none of its loads is left when the count goes up. Nothing
// waits for another workgroup. The last one sets the count back to 0 for the next run.
@group(0) @binding(HISTORY_BINDING) var<storage, read_write> history: array<f32>; // B C WIDTH - 1, oldest first
@group(0) @binding(ARRIVALS_BINDING) var<storage, read_write> arrivals: array<atomic<u32>>; // B, heads of k: workgroups so far

var<workgroup> wg_is_last: u32;

fn earlier(row: u32, w: u32) -> f32 {
    return history[row * (WIDTH - 1u) + w];
}

// Moves the inputs of a row by one token.
fn keep(row: u32, inputs: array<f32, WIDTH>) {
    count_store(WIDTH - 1u);
    for (var w = 1u; w < WIDTH; w++) {
        history[row * (WIDTH - 1u) + w - 1u] = inputs[w];
    }
}

fn arrival_of(b: u32, g: u32) -> u32 {
    return (b * params.kv_heads + g) / params.share;
}

// All vectors of this workgroup are in workgroup memory.
fn vectors_are_loaded(b: u32, g: u32, invocation: u32) {
    if (invocation == 0u) {
        let before = atomicAdd(&arrivals[arrival_of(b, g)], 1u);
        wg_is_last = select(0u, 1u, before + 1u == params.share * params.col_splits);
    }
}

// Behind a barrier after that: the last workgroup keeps the inputs of the key and the queries.
fn keep_vectors(b: u32, g: u32, invocation: u32) {
    if (wg_is_last == 0u) {
        return;
    }
    let per_kv = params.heads / params.kv_heads;
    for (var d = invocation; d < params.dim_k; d += COLUMNS * LANES) {
        let row = channel_row(params.k, b, key_head(g), d);
        keep(row, window(row));
        for (var r = 0u; r < per_kv; r++) {
            let query = channel_row(params.q, b, key_head(g * per_kv + r), d);
            keep(query, window(query));
        }
    }
    if (invocation == 0u) {
        atomicStore(&arrivals[arrival_of(b, g)], 0u);
    }
}
