// Numbers that neighbouring invocations share, as computed (lanes_subgroup.wgsl).
fn same_in_workgroup(x: u32) -> u32 {
    return x;
}

fn same_in_row(x: u32) -> u32 {
    return x;
}
