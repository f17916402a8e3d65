// Recurrence, decode (one token): updates the state and reads it in one dispatch. One workgroup per KV head has 64 columns
// times 4 row lanes. Each lane processes rows d = lane, lane + 4, ... of its column, so the state is read once, in address
// order.
//
// Grid: KV heads. Reads k, v, q; reads and writes state; writes o.
//
// A variant brings: prepare_key and prepare_query, which fill workgroup memory and contain their own barriers;
// key_feature(d) and query_feature(d), the features of row d; decay_row(d), the decay factor of row d (decay.wgsl), applied
// before the write, and prepare_decay for it; value_of(b, g, e), the value to write; normalize_one(sum, weight), which
// normalises the scaled sums of a query; epilogue_one(b, h, e, o), the epilogue of an output.
@group(0) @binding(STATE_BINDING) var<storage, read_write> state: array<f32>; // packed: sums of all KV heads, then their norms

const COLUMNS: u32 = 64u;
const LANES: u32 = 4u;
const INVOCATIONS: u32 = COLUMNS * LANES;

var<workgroup> wg_sum: array<f32, INVOCATIONS>;
