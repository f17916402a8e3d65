// The rows of a workgroup: a range of queries for each query head that shares its KV head. The kernel defines WIDTH, its value
// columns in groups of four. Needs lanes, and keys_all.wgsl or keys_lengths.wgsl.

// The block that a workgroup processes.
struct Block {
    batch: u32,
    keys: u32,    // that it has
    kv_head: u32,
    head: u32,    // first query head
    heads: u32,   // number of query heads
    query: u32,   // first query
    queries: u32, // queries per head
    column: u32,  // first value column
}

// Decodes a workgroup index. The last queries see the most keys and come first, so that the shortest workgroups run at
// the end and fill the idle units.
fn block_of(index: u32) -> Block {
    var rest = index / params.col_splits;
    let query = (params.row_blocks - 1u - rest % params.row_blocks) * params.row_queries;
    rest = rest / params.row_blocks;
    let group = params.heads / params.kv_heads;
    let first = (rest % params.head_splits) * params.block_heads;
    let kv = rest / params.head_splits;
    let batch = kv / params.kv_heads;
    let kv_head = kv % params.kv_heads;
    return Block(
        same_in_workgroup(batch),
        same_in_workgroup(key_count(batch)),
        same_in_workgroup(kv_head),
        same_in_workgroup(kv_head * group + first),
        same_in_workgroup(min(params.block_heads, group - first)),
        same_in_workgroup(query),
        same_in_workgroup(min(params.row_queries, params.queries - query)),
        same_in_workgroup(index % params.col_splits * WIDTH * 4u),
    );
}

var<private> block: Block;

// A row of the workgroup: its query head and query, or those of the last row that exists.
struct BlockRow {
    head: u32,
    query: u32,
    exists: bool,
}

fn row_of(row: u32) -> BlockRow {
    let head = row / params.row_queries;
    let query = row % params.row_queries;
    return BlockRow(
        block.head + min(head, block.heads - 1u),
        block.query + min(query, block.queries - 1u),
        head < block.heads && query < block.queries,
    );
}

// First element of a row, in q or o.
fn row_start(s: Strides, row: BlockRow) -> u32 {
    return head_start(s, block.batch, row.head) + row.query * s.token;
}

// First elements of a row of the workgroup and of a key, for scores that load them.
fn q_start(row: u32) -> u32 {
    return row_start(params.q, row_of(row));
}

fn k_start(key: u32) -> u32 {
    return head_start(params.k, block.batch, block.kv_head) + key * params.k.token;
}
