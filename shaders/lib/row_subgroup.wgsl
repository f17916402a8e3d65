// The row thread of an invocation, where all invocations of a subgroup have the same. The broadcast tells a compiler so, and loads
// of workgroup memory with this index become one load for the subgroup. Drivers on a CPU load for each lane otherwise, which
// takes most of their time.
fn uniform_row(row: u32) -> u32 {
    return subgroupBroadcastFirst(row);
}
