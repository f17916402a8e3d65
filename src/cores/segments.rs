//! Chooses the number of segments of a sequence.

/// Number of segments for `tokens` tokens. There are enough to fill the device (`wanted`), and more if a segment would
/// exceed `longest` tokens, but so few that the traffic of their states stays below a tenth of that of the tokens. If
/// the sequence is too short for this, the limit is half the traffic until the device is full, because idle cores and waves
/// without others to hide their loads cost more. (On an H200 `linear` took 722 us for 4096 tokens of 16 heads of 64 in 5
/// segments, about 240 us in 21.)
/// `state` and `token` are the bytes of traffic per segment state and per token.
pub(crate) fn segments(tokens: usize, state: usize, token: usize, wanted: usize, longest: usize) -> usize {
    let shortest = |share: usize| (share * state).div_ceil(token).next_multiple_of(64);
    let longest = longest.max(shortest(10));
    let many = (tokens / shortest(10)).clamp(1, wanted.max(tokens.div_ceil(longest)));
    many.max((tokens / shortest(2)).min(wanted))
}

#[cfg(test)]
mod tests {
    use super::segments;

    #[test]
    fn segments_fill_the_machine_as_far_as_their_states_allow() {
        let of = |tokens, wanted, longest| segments(tokens, 1000, 10, wanted, longest);
        // The limit of a tenth needs at least 1024 tokens per segment; the limit of a half needs 256.
        assert_eq!(of(100_000, 1, usize::MAX), 1, "full already");
        assert_eq!(of(100_000, 64, usize::MAX), 64, "enough for all");
        assert_eq!(of(100_000, 1000, usize::MAX), 390, "as short as half the traffic allows");
        assert_eq!(of(10_000, 64, usize::MAX), 39, "as full as half the traffic allows");
        assert_eq!(of(30_000, 64, usize::MAX), 64, "full");
        assert_eq!((of(255, 64, usize::MAX), of(512, 64, usize::MAX)), (1, 2));
        assert_eq!(of(100_000, 1, 10_000), 10, "a dispatch would take too long");
        assert_eq!(of(100_000, 1, 10), 97, "longer than asked, for the traffic");
    }
}
