// Scores of a pair of chunks, computed by the kernel that weighs them.
const SCORES_STORED: bool = false;

fn find_scores(p: Place, pair: Pair, number: u32, invocation: u32) {
    score(p, pair, invocation);
}
