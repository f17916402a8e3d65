// Stands for exact scores where a score never needs the vectors themselves.
const REVISED: bool = false;

fn is_rough(score: f32) -> bool {
    return false;
}

fn exact_score(row: u32, key: u32) -> f32 {
    return 0.0;
}
