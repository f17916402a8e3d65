// Recurrence, decode (one token): updates the state and reads it in one dispatch. A workgroup has COLUMNS columns times LANES row
// lanes. Lane i processes rows i, i + LANES, .. of its column, so the state is read once, in address order. The columns of a KV
// head are split over workgroups where nothing but their own values is written.
//
// Grid: column splits, KV heads. Reads k, v, q; reads and writes state; writes o. Prelude constant: COLUMNS.
//
// A variant brings: prepare_key and prepare_query, which fill workgroup memory and contain their own barriers;
// key_feature(d) and query_feature(d), the features of row d; decay_row(d), the decay factor of row d (decay.wgsl), applied
// before the write, and prepare_decay for it; value_of(b, g, e), the value to write; what gives the elements of vectors
// (decode_given.wgsl, decode_convolved.wgsl): prepare_values, before values of columns from `first` on are used, and
// vectors_are_loaded and keep_vectors, after all keys and queries are in workgroup memory; normalize_one(sum, weight), which
// normalises the scaled sums of a query; epilogue_one(b, h, e, o), the epilogue of an output.
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>; // packed: sums of all KV heads, then their norms

const INVOCATIONS: u32 = 256u;
const LANES: u32 = INVOCATIONS / COLUMNS;

// The token at hand; 0 where there is one. Loops over tokens have a variable of their own: browsers take one of a module for
// different in each invocation.
var<private> token: u32 = 0u;

var<workgroup> wg_sum: array<f32, INVOCATIONS>;

// Adds what the lanes of a column published.
fn sum_lanes(column: u32) -> f32 {
    var sum = wg_sum[column];
    for (var lane = 1u; lane < LANES; lane++) {
        sum += wg_sum[column + lane * COLUMNS];
    }
    return sum;
}
