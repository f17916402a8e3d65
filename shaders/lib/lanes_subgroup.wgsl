// Numbers that neighbouring invocations share, as a subgroup's broadcast, where whole subgroups share them: all of a
// workgroup, or a row of invocations. That tells a compiler so. Drivers on a CPU then load from workgroup memory once for
// all lanes, and do not repeat divisions after each barrier, which take most of their time otherwise.
fn same_in_workgroup(x: u32) -> u32 {
    return subgroupBroadcastFirst(x);
}

fn same_in_row(x: u32) -> u32 {
    return subgroupBroadcastFirst(x);
}
