//! The keys that a query sees, as the definition says it, pair by pair. It shares no code with the kernels and the `cpu` backend.

use super::Extras;
use super::seen::Mask;
use crate::operator::pairs::Align;
use crate::operator::qkv::Qkv;
use crate::tensor::{HostTensor, TensorMap, Values};

/// The rule of a run, with the key counts and the borders of its tensors.
pub(crate) struct Rule {
    queries: i64,
    rule: Mask,
    /// Keys of each batch entry.
    counts: Vec<i64>,
    /// Number of the sequence of each token, if sequences are packed.
    sequences: Option<Vec<usize>>,
}

impl Rule {
    pub(crate) fn new(s: &Qkv, rule: Mask, extras: &Extras, tensors: &TensorMap) -> Self {
        let given = |name: &str| match tensors.get(name).map(HostTensor::values) {
            Some(Values::U32(values)) => values.clone(),
            _ => panic!("tensor {name} is missing"),
        };
        let counts = if extras.lengths {
            given("lengths").into_iter().map(|length| i64::from(length).min(s.keys as i64)).collect()
        } else {
            vec![s.keys as i64; s.batch]
        };
        let sequence =
            |borders: &[u32], token: usize| borders.iter().filter(|border| **border as usize <= token).count();
        let sequences = extras.sequences.map(|_| {
            let borders = given("cu_seqlens");
            (0..s.keys).map(|token| sequence(&borders, token)).collect()
        });
        Self { queries: s.queries as i64, rule, counts, sequences }
    }

    /// Whether query i sees key j.
    fn sees(&self, keys: i64, i: usize, j: usize) -> bool {
        if self.sequences.as_ref().is_some_and(|of| of[i] != of[j]) {
            return false;
        }
        if !self.rule.causal {
            return true;
        }
        let own = match self.rule.align {
            Align::End => i as i64 + keys - self.queries,
            Align::Start => i as i64,
        };
        let j = j as i64;
        j <= own && self.rule.window.is_none_or(|window| u64::try_from(own - j).is_ok_and(|back| back < window as u64))
    }

    /// The keys that query i of a batch entry sees.
    pub(crate) fn keys(&self, batch: usize, i: usize) -> Vec<usize> {
        let keys = self.counts[batch];
        (0..keys as usize).filter(|j| self.sees(keys, i, *j)).collect()
    }
}
