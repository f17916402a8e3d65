//! The keys that a query sees, on the host: for the sizes of a program, for the `cpu` backend, and for the least work.

use std::ops::Range;

use crate::operator::pairs::Align;
use crate::operator::qkv::Qkv;

/// The rule by which a query sees keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mask {
    pub(crate) causal: bool,
    /// Maximum number of keys per query, the last of which is its own key; only if causal.
    pub(crate) window: Option<usize>,
    /// Which key is a query's own; only if causal.
    pub(crate) align: Align,
}

impl Mask {
    /// Every query sees every key.
    pub(crate) const OPEN: Self = Self { causal: false, window: None, align: Align::End };

    /// Keys that query `n` of `s` sees.
    pub(crate) fn keys(&self, s: &Qkv, n: usize) -> Range<usize> {
        if !self.causal {
            return 0..s.keys;
        }
        // One past the query's own key.
        let end = (n as isize + 1 + self.align.shift(s.queries, s.keys)).max(0) as usize;
        end.saturating_sub(self.window.unwrap_or(end)).min(s.keys)..end.min(s.keys)
    }

    /// Queries that see key `j`.
    #[cfg(feature = "cpu")]
    pub(crate) fn queries(&self, s: &Qkv, j: usize) -> Range<usize> {
        if !self.causal {
            return 0..s.queries;
        }
        let own = j as isize - self.align.shift(s.queries, s.keys);
        let queries = s.queries as isize;
        let window = self.window.map_or(isize::MAX, |w| isize::try_from(w).unwrap_or(isize::MAX));
        let end = own.saturating_add(window).clamp(0, queries);
        own.clamp(0, end) as usize..end as usize
    }

    /// Keys from the first that any query sees to the last.
    pub(crate) fn span(&self, s: &Qkv) -> Range<usize> {
        self.keys(s, 0).start..self.keys(s, s.queries - 1).end
    }

    /// Number of queries that see a key.
    pub(crate) fn seeing(&self, s: &Qkv) -> usize {
        match (self.causal, self.align, self.window) {
            (true, Align::End, _) => s.queries.min(s.keys),
            (true, Align::Start, Some(window)) => s.queries.min(s.keys.saturating_add(window - 1)),
            _ => s.queries,
        }
    }

    /// Number of pairs of a query and a key that it sees, for one head.
    pub(crate) fn pairs(&self, s: &Qkv) -> f64 {
        if !self.causal {
            return s.queries as f64 * s.keys as f64;
        }
        // Sum over queries that stand at positions 0 to x - 1 of the keys up to their own.
        let keys = s.keys as f64;
        let up_to = |x: f64| {
            if x <= keys {
                x.max(0.0) * (x.max(0.0) + 1.0) / 2.0
            } else {
                keys * (keys + 1.0) / 2.0 + (x - keys) * keys
            }
        };
        let first = self.align.shift(s.queries, s.keys) as f64;
        let all = |before: f64| up_to(first + s.queries as f64 - before) - up_to(first - before);
        // A window leaves out the keys up to the one that is W before a query's own.
        all(0.0) - self.window.map_or(0.0, |window| all(window as f64))
    }
}

/// The rule, and the borders of packed sequences, none of which a query sees across.
#[cfg(feature = "cpu")]
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) mask: Mask,
    /// From 0 to N, if sequences are packed.
    pub(crate) borders: Option<Vec<usize>>,
}

#[cfg(feature = "cpu")]
impl From<Mask> for Seen {
    fn from(mask: Mask) -> Self {
        Self { mask, borders: None }
    }
}

#[cfg(feature = "cpu")]
impl Seen {
    /// The sequence that token `n` belongs to.
    fn sequence(borders: &[usize], n: usize) -> Range<usize> {
        let after = borders.partition_point(|border| *border <= n);
        borders[after - 1]..borders[after]
    }

    /// Keys that query `n` of `s` sees.
    pub(crate) fn keys(&self, s: &Qkv, n: usize) -> Range<usize> {
        let all = self.mask.keys(s, n);
        let Some(borders) = &self.borders else { return all };
        let own = Self::sequence(borders, n);
        all.start.max(own.start)..all.end.min(own.end)
    }

    /// Queries that see key `j`.
    pub(crate) fn queries(&self, s: &Qkv, j: usize) -> Range<usize> {
        let all = self.mask.queries(s, j);
        let Some(borders) = &self.borders else { return all };
        let own = Self::sequence(borders, j);
        all.start.max(own.start)..all.end.min(own.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_queries_and_pairs_agree_with_the_rule() {
        for (queries, keys) in [(1, 1), (5, 5), (3, 9), (9, 3), (7, 1), (1, 7)] {
            let s = Qkv::new().len(queries).keys(keys);
            for (align, window) in [Align::End, Align::Start]
                .into_iter()
                .flat_map(|align| [None, Some(1), Some(2), Some(4), Some(usize::MAX)].map(|window| (align, window)))
            {
                let mask = Mask { causal: true, window, align };
                let shift = if align == Align::End { keys as i64 - queries as i64 } else { 0 };
                let sees = |n: usize, j: usize| {
                    let (own, j) = (n as i64 + shift, j as i64);
                    j <= own && window.is_none_or(|w| own.saturating_sub(w.min(1000) as i64) < j)
                };
                let mut pairs = 0.0;
                for n in 0..queries {
                    for j in 0..keys {
                        assert_eq!(mask.keys(&s, n).contains(&j), sees(n, j), "{queries} {keys} {mask:?} {n} {j}");
                        assert_eq!(mask.queries(&s, j).contains(&n), sees(n, j), "{queries} {keys} {mask:?} {n} {j}");
                        pairs += f64::from(u8::from(sees(n, j)));
                    }
                }
                assert_eq!(mask.pairs(&s), pairs, "{queries} {keys} {mask:?}");
                let seeing = (0..queries).filter(|n| (0..keys).any(|j| sees(*n, j))).count();
                assert_eq!(mask.seeing(&s), seeing, "{queries} {keys} {mask:?}");
            }
        }
    }

    #[test]
    fn nothing_is_seen_across_a_border() {
        let s = Qkv::new().len(7);
        let mask = Mask { causal: true, window: Some(2), align: Align::End };
        let seen = Seen { mask, borders: Some(vec![0, 0, 3, 3, 7]) };
        assert_eq!([0, 2, 3, 4, 6].map(|n| seen.keys(&s, n)), [0..1, 1..3, 3..4, 3..5, 5..7]);
        assert_eq!([0, 2, 3, 6].map(|j| seen.queries(&s, j)), [0..2, 2..3, 3..5, 6..7]);
        let open = Seen { mask: Mask::OPEN, ..seen };
        assert_eq!([0, 2, 3, 6].map(|n| open.keys(&s, n)), [0..3, 0..3, 3..7, 3..7]);
        assert_eq!([0, 2, 3, 6].map(|j| open.queries(&s, j)), [0..3, 0..3, 3..7, 3..7]);
    }
}
