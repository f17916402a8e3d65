// Features of whole vectors: products of keys, or of queries, with rows of weights, from which the operator makes what the
// walks load.
//
// A workgroup takes VECTORS vectors of one head, and ROW_THREADS groups of four rows at a time. Invocation (row_thread,
// vector_thread) holds EACH vectors times four rows in registers. Slices of 16 elements of both operands are staged in
// workgroup memory.
//
// Grid: tiles of VECTORS tokens, heads that belong to a key head, key heads. Reads k, to which q is bound for queries, and the
// weights; writes features. Tokens params.first .. params.end.
//
// Prelude constants: ROW_THREADS, VECTOR_THREADS; PRODUCTS4, groups of four rows of weights; FEATURES4, vec4s stored per
// vector; LARGEST, 1 if of_vector needs the largest element. The operator declares features and defines: weight_start(row,
// g), by which weight(start, d) finds the elements of a row of the weights of key head g, 0 past the end of either;
// of_vector(square, largest), a number of each vector from its squared length and its largest element; keep_products(home,
// v, i, products), which stores what products 4 i .. 4 i + 3 of vector v of the tile become, with wg_of_vector[v], in row
// `home` of features; finish_vectors(home, count, invocation), which completes the rows of `count` vectors from `home` on.
override QUERIES: u32 = 0u; // 1: the vectors are queries

const INVOCATIONS: u32 = ROW_THREADS * VECTOR_THREADS;
const EACH: u32 = 8u;
const VECTORS: u32 = EACH * VECTOR_THREADS;
const SLICE4: u32 = 4u;

var<workgroup> wg_x: array<vec4<f32>, SLICE4 * VECTORS>; // [SLICE4][VECTORS]
var<workgroup> wg_w: array<vec4<f32>, 4u * SLICE4 * ROW_THREADS>; // [element][ROW_THREADS], four rows of weights
const LARGEST_LENGTH: u32 = select(1u, VECTORS, LARGEST == 1u);
var<workgroup> wg_largest: array<f32, LARGEST_LENGTH>;
// Squared lengths so far, then the numbers of_vector.
var<workgroup> wg_of_vector: array<f32, VECTORS>;

// Loads a slice of the vectors: zero past the head dimension. Tokens past the last one repeat it, and are never stored.
fn load_vectors(b: u32, h: u32, head: u32, stride: u32, first: u32, slice: u32, invocation: u32) {
    for (var turn = 0u; turn < (SLICE4 * VECTORS + INVOCATIONS - 1u) / INVOCATIONS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if ((SLICE4 * VECTORS) % INVOCATIONS != 0u && i >= SLICE4 * VECTORS) {
            break;
        }
        let v = i / SLICE4;
        let d = 4u * (slice * SLICE4 + i % SLICE4);
        count_load(select(0u, vector_loads(d), first + v < params.end));
        let n = min(first + v, params.end - 1u);
        var x = load_k(head + n * stride, d);
        if (QUERIES == 1u) {
            x *= query_factor(b, h, n);
        } else {
            x *= key_factor(b, h, n);
        }
        wg_x[i % SLICE4 * VECTORS + v] = select(vec4<f32>(0.0), x, within(d, params.dim_k));
    }
}

// Each invocation loads the same rows of weights in every slice.
const WEIGHTS: u32 = 4u * SLICE4 * ROW_THREADS;
const WEIGHT_TURNS: u32 = (WEIGHTS + INVOCATIONS - 1u) / INVOCATIONS;
var<private> weight_rows: array<vec4<u32>, WEIGHT_TURNS>;

fn find_weights(first_group: u32, g: u32, invocation: u32) {
    for (var turn = 0u; turn < WEIGHT_TURNS; turn++) {
        let row = 4u * (first_group + (invocation + turn * INVOCATIONS) / (4u * SLICE4));
        weight_rows[turn] = vec4<u32>(
            weight_start(row, g), weight_start(row + 1u, g), weight_start(row + 2u, g), weight_start(row + 3u, g),
        );
    }
}

fn load_weights(slice: u32, invocation: u32) {
    for (var turn = 0u; turn < WEIGHT_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (WEIGHTS % INVOCATIONS != 0u && i >= WEIGHTS) {
            break;
        }
        let rows = weight_rows[turn];
        let c = i % (4u * SLICE4);
        let d = slice * 4u * SLICE4 + c;
        wg_w[c * ROW_THREADS + i / (4u * SLICE4)] =
            vec4<f32>(weight(rows.x, d), weight(rows.y, d), weight(rows.z, d), weight(rows.w, d));
    }
}

// Adds the squares of a slice.
fn add_squares(slice: u32, invocation: u32) {
    for (var v = invocation; v < VECTORS; v += INVOCATIONS) {
        var square = 0.0;
        var largest = 0.0;
        if (slice > 0u) {
            square = wg_of_vector[v];
            largest = wg_largest[v % LARGEST_LENGTH];
        }
        for (var d = 0u; d < SLICE4; d++) {
            let x = wg_x[d * VECTORS + v];
            square += x.x * x.x;
            square += x.y * x.y;
            square += x.z * x.z;
            square += x.w * x.w;
            if (LARGEST == 1u) {
                let most = max(abs(x.xy), abs(x.zw));
                largest = max(largest, max(most.x, most.y));
            }
        }
        wg_of_vector[v] = square;
        if (LARGEST == 1u) {
            wg_largest[v % LARGEST_LENGTH] = largest;
        }
    }
}

// Makes the numbers of the vectors, each by the invocation that added its squares.
fn complete_vectors(invocation: u32) {
    for (var v = invocation; v < VECTORS; v += INVOCATIONS) {
        wg_of_vector[v] = of_vector(wg_of_vector[v], wg_largest[v % LARGEST_LENGTH]);
    }
}

@compute @workgroup_size(ROW_THREADS * VECTOR_THREADS)
fn recurrence_features(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let tokens = params.end - params.first;
    let tiles = (tokens + VECTORS - 1u) / VECTORS;
    let group_size = params.heads / params.kv_heads;
    let key_heads = params.kv_heads / params.share;
    let heads = select(1u, group_size, QUERIES == 1u);
    let tile = index % tiles;
    let head = index / tiles % heads;
    let unit = index / tiles / heads;
    let b = unit / key_heads;
    let g = unit % key_heads;
    let first = params.first + tile * VECTORS;
    let count = min(VECTORS, params.end - first);
    // First element of the head, and row of features of the first vector.
    var h = g;
    var start = head_start(params.k, b, g);
    var stride = params.k.token;
    var home = ((unit - params.first_unit) * heads + head) * tokens + tile * VECTORS;
    if (QUERIES == 1u) {
        h = g * group_size + head;
        start = head_start(params.q, b, h);
        stride = params.q.token;
        home += params.query_features;
    }
    let row_thread = invocation % ROW_THREADS;
    let vector_thread = invocation / ROW_THREADS;
    let slices = (params.dim_k + 4u * SLICE4 - 1u) / (4u * SLICE4);
    for (var first_group = 0u; first_group < PRODUCTS4; first_group += ROW_THREADS) {
        var sums: array<vec4<f32>, EACH>;
        for (var i = 0u; i < EACH; i++) {
            sums[i] = vec4<f32>(0.0);
        }
        find_weights(first_group, g, invocation);
        for (var slice = 0u; slice < slices; slice++) {
            workgroupBarrier();
            load_vectors(b, h, start, stride, first, slice, invocation);
            load_weights(slice, invocation);
            workgroupBarrier();
            if (first_group == 0u) {
                add_squares(slice, invocation);
            }
            // The bound is dynamic on purpose: unrolled, the products would make up most of the code.
            let depth = min(SLICE4, (params.dim_k + 3u) / 4u - slice * SLICE4);
            for (var d = 0u; d < depth; d++) {
                let w0 = wg_w[4u * d * ROW_THREADS + row_thread];
                let w1 = wg_w[(4u * d + 1u) * ROW_THREADS + row_thread];
                let w2 = wg_w[(4u * d + 2u) * ROW_THREADS + row_thread];
                let w3 = wg_w[(4u * d + 3u) * ROW_THREADS + row_thread];
                for (var i = 0u; i < EACH; i++) {
                    let x = wg_x[d * VECTORS + i * VECTOR_THREADS + vector_thread];
                    sums[i] += x.x * w0;
                    sums[i] += x.y * w1;
                    sums[i] += x.z * w2;
                    sums[i] += x.w * w3;
                }
            }
        }
        if (first_group == 0u) {
            complete_vectors(invocation);
        }
        workgroupBarrier();
        for (var i = 0u; i < EACH; i++) {
            let v = i * VECTOR_THREADS + vector_thread;
            if (v < count && first_group + row_thread < PRODUCTS4) {
                keep_products(home + v, v, first_group + row_thread, sums[i]);
            }
        }
    }
    finish_vectors(home, count, invocation);
}
