// Stands for mask.wgsl where no pair is masked.
fn mask_row(b: u32, h: u32, n: u32) -> u32 {
    return 0u;
}

fn mask_at(row: u32, key: u32) -> bool {
    return true;
}
