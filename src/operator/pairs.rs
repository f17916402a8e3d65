//! Settings of attention that concern pairs of a query and a key: how both are aligned, and tensors with a number for each
//! pair.

use super::qkv::{Qkv, Strides};
use crate::tensor::Shape;

/// Why an alignment at the start is refused.
pub(crate) const NOT_CAUSAL: &str = " start needs the causal form: without it every query sees every key";
pub(crate) const WITH_CACHE: &str = " start cannot be used with a key/value cache, whose keys come before the queries";

/// Where causal queries stand among the keys if there are more of one than of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Align {
    /// The last query is at the last key, as with a cache: query i sees keys up to i + M - N.
    #[default]
    End,
    /// The first query is at the first key: query i sees keys up to i.
    Start,
}

impl Align {
    /// The values of `--align`.
    pub const WORDS: &'static [&'static str] = &["end", "start"];

    /// The value of `--align`, for example `start`.
    pub const fn name(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// The alignment of that name.
    pub fn named(word: &str) -> Option<Self> {
        [Self::End, Self::Start].into_iter().find(|align| align.name() == word)
    }

    /// Position of the first of these queries among these keys; negative if it stands before the first key.
    pub(crate) fn shift(self, queries: usize, keys: usize) -> isize {
        match self {
            Self::End => keys as isize - queries as isize,
            Self::Start => 0,
        }
    }
}

/// Which axes a tensor with a number for each pair, `[1|B, 1|H, N, M]`, has. All batch entries, or all query heads, share it
/// along an axis that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pairs {
    /// Whether every batch entry has its own numbers.
    pub batch: bool,
    /// Whether every query head has its own numbers.
    pub heads: bool,
}

impl Pairs {
    /// The same numbers for all batch entries and heads: `[1, 1, N, M]`.
    pub const SHARED: Self = Self { batch: false, heads: false };

    /// The axes that a tensor of these lengths has along B and H, if they fit: 1, or that of the queries.
    pub fn of(s: &Qkv, [batch, heads]: [usize; 2]) -> Option<Self> {
        let fits = |found: usize, all: usize| found == 1 || found == all;
        let own = Self { batch: batch > 1, heads: heads > 1 };
        (fits(batch, s.batch) && fits(heads, s.heads)).then_some(own)
    }

    /// The shape of the tensor.
    pub fn shape(self, s: &Qkv) -> Shape {
        let [batch, heads] = self.lengths(s);
        [batch, heads, s.queries, s.keys].into()
    }

    fn lengths(self, s: &Qkv) -> [usize; 2] {
        [if self.batch { s.batch } else { 1 }, if self.heads { s.heads } else { 1 }]
    }

    /// Number of matrices of N x M numbers.
    pub(crate) fn count(self, s: &Qkv) -> usize {
        self.lengths(s).iter().product()
    }

    /// Strides of the tensor if a row takes so many elements; 0 along an axis that it does not have.
    pub(crate) fn strides(self, s: &Qkv, row: usize) -> Strides {
        let head = if self.heads { s.queries * row } else { 0 };
        let batch = if self.batch { self.lengths(s)[1] * s.queries * row } else { 0 };
        [batch as u32, head as u32, row as u32, 0]
    }

    /// Whether the numbers of a batch entry and head are its own, one after another in the order of the queries' heads.
    pub(crate) fn is_whole(self, s: &Qkv) -> bool {
        (self.batch || s.batch == 1) && (self.heads || s.heads == 1)
    }
}
