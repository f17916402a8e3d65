// Stands for pairs_added.wgsl where there is neither a bias nor a mask.
const PAIRS: bool = false;

struct PairRow {
    unused: u32,
}

fn pair_row(b: u32, h: u32, n: u32) -> PairRow {
    return PairRow(0u);
}

fn pair_extra(row: PairRow, key: u32) -> f32 {
    return 0.0;
}

fn pair_seen(row: PairRow, key: u32, extra: f32) -> bool {
    return true;
}

fn with_extra(score: f32, extra: f32) -> f32 {
    return score;
}
