//! What attention may have beside q, k, v and o: key counts, borders of packed sequences, a bias and a mask of single pairs, a
//! cap of the scores, sinks, and the logarithms of the sums. Their slots, fragments, checks and bytes.

use std::mem::offset_of;

use super::seen::Mask;
use super::{Params, fragment};
use crate::cores::packed::PACKED_TOKENS;
use crate::error::Error;
use crate::gpu::program::Cost;
use crate::gpu::shader::Fragment;
use crate::operator::mode::{Mode, borders_shape, check_sequences};
use crate::operator::pairs::{Align, NOT_CAUSAL, Pairs};
use crate::operator::qkv::Qkv;
use crate::tensor::{Access, DType, HostTensor, Slot, TensorMap, Values};

/// Keys that a batch entry has: those of the tensor, or as many as slot `lengths` says.
const KEYS_ALL: Fragment = fragment!("cores/attention/keys_all.wgsl");
const KEYS_LENGTHS: Fragment = fragment!("cores/attention/keys_lengths.wgsl");
/// Keys that a query sees: by one rule, or those of its own sequence.
const SEEN_PLAIN: Fragment = fragment!("cores/attention/seen_plain.wgsl");
const SEEN_PACKED: Fragment = fragment!("cores/attention/seen_packed.wgsl");
/// Single pairs: none are treated by themselves, or they have a bias, a mask, or both.
const PAIRS_PLAIN: Fragment = fragment!("cores/attention/pairs_plain.wgsl");
const PAIRS_ADDED: Fragment = fragment!("cores/attention/pairs_added.wgsl");
const BIAS: Fragment = fragment!("cores/attention/bias.wgsl");
const NO_BIAS: Fragment = fragment!("cores/attention/no_bias.wgsl");
const MASK: Fragment = fragment!("cores/attention/mask.wgsl");
const NO_MASK: Fragment = fragment!("cores/attention/no_mask.wgsl");
/// What happens once the sums of a row are complete.
const SINK: Fragment = fragment!("cores/attention/sink.wgsl");
const NO_SINK: Fragment = fragment!("cores/attention/no_sink.wgsl");
const LSE: Fragment = fragment!("cores/attention/lse.wgsl");
const NO_LSE: Fragment = fragment!("cores/attention/no_lse.wgsl");

/// The fragments of a kernel that weighs the keys and stores the outputs, if there is nothing beside q, k, v and o.
pub(crate) const PLAIN: [Fragment; 5] = [KEYS_ALL, SEEN_PLAIN, PAIRS_PLAIN, NO_SINK, NO_LSE];

/// What a run has beside q, k, v and o.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Extras {
    /// Whether slot `lengths` says how many keys each batch entry has.
    pub(crate) lengths: bool,
    /// Number of packed sequences, whose borders are in slot `cu_seqlens`.
    pub(crate) sequences: Option<usize>,
    /// Slot `bias`: added to the scores; minus infinity hides a pair.
    pub(crate) bias: Option<Pairs>,
    /// Slot `mask`: 0 hides a pair.
    pub(crate) mask: Option<Pairs>,
    /// Slot `sink`: a score for each query head that joins the sum of every row.
    pub(crate) sink: bool,
    /// C: a score s becomes C tanh(s / C), before the bias is added.
    pub(crate) softcap: Option<f32>,
    /// Whether the logarithms of the sums are written to slot `lse`.
    pub(crate) lse: bool,
}

impl Extras {
    /// Refuses settings that contradict each other.
    pub(crate) fn check(&self, op: &'static str, s: &Qkv, rule: Mask) -> Result<(), Error> {
        if rule.align == Align::Start && !rule.causal {
            return Err(Error::rule(op, "align", NOT_CAUSAL));
        }
        if let Some(cap) = self.softcap.filter(|cap| !(cap.is_finite() && *cap > 0.0)) {
            return Err(Error::setting(op, "softcap", "a finite number above 0", cap.to_string()));
        }
        let Some(sequences) = self.sequences else { return Ok(()) };
        check_sequences(op, "q", s.batch, sequences)?;
        if s.queries != s.keys {
            let expected = format!("M = N = {} with cu_seqlens", s.queries);
            return Err(Error::tensor(op, "k", expected, format!("M = {}", s.keys)));
        }
        if self.lengths {
            let expected = "none with lengths, which are those of batch entries";
            return Err(Error::tensor(op, "cu_seqlens", expected, borders_shape(sequences)));
        }
        Ok(())
    }

    /// The slots behind q, k, v and o.
    pub(crate) fn slots(&self, s: &Qkv) -> Vec<Slot> {
        let mut slots = Vec::new();
        slots.extend(self.lengths.then(|| Slot::plain("lengths", Access::Read, DType::U32, [s.batch])));
        slots.extend(Mode { sequences: self.sequences, ..Mode::new() }.borders_slot());
        slots.extend(self.bias.map(|pairs| Slot::plain("bias", Access::Read, s.dtype, pairs.shape(s)).along(2)));
        slots.extend(self.mask.map(|pairs| Slot::mask("mask", pairs.shape(s)).along(2)));
        slots.extend(self.sink.then(|| Slot::plain("sink", Access::Read, DType::F32, [s.heads])));
        slots.extend(
            self.lse.then(|| Slot::plain("lse", Access::Write, DType::F32, [s.batch, s.heads, s.queries]).along(2)),
        );
        slots
    }

    /// Bindings of the tiled form.
    pub(crate) fn bindings(&self) -> usize {
        let extra =
            [self.lengths || self.sequences.is_some(), self.bias.is_some(), self.mask.is_some(), self.sink, self.lse];
        4 + extra.into_iter().filter(|given| *given).count()
    }

    /// Refuses values that contradict the shapes: borders that are none, more keys than there are.
    pub(crate) fn check_values(&self, op: &'static str, s: &Qkv, tensors: &TensorMap) -> Result<(), Error> {
        if self.sequences.is_some() {
            crate::operator::check_borders(op, s.queries, tensors)?;
        }
        let Some(Values::U32(lengths)) = tensors.get("lengths").map(HostTensor::values).filter(|_| self.lengths) else {
            return Ok(());
        };
        match lengths.iter().position(|length| *length as usize > s.keys) {
            Some(at) => {
                let expected = format!("at most M = {} keys", s.keys);
                Err(Error::tensor(op, "lengths", expected, format!("{} at {at}", lengths[at])))
            }
            None => Ok(()),
        }
    }

    /// Keys of each batch entry.
    #[cfg(feature = "cpu")]
    pub(crate) fn key_counts(&self, s: &Qkv, tensors: &TensorMap) -> Option<Vec<usize>> {
        let all = u32s("lengths", tensors).filter(|_| self.lengths)?;
        Some(all.iter().map(|length| (*length as usize).min(s.keys)).collect())
    }

    /// The borders of packed sequences.
    #[cfg(feature = "cpu")]
    pub(crate) fn borders(&self, tensors: &TensorMap) -> Option<Vec<usize>> {
        let all = u32s("cu_seqlens", tensors).filter(|_| self.sequences.is_some())?;
        Some(all.iter().map(|border| *border as usize).collect())
    }

    /// The fragments of a kernel that makes weights.
    pub(super) fn of_weights(&self) -> Vec<Fragment> {
        let mut list = vec![if self.lengths { KEYS_LENGTHS } else { KEYS_ALL }];
        match self.sequences {
            Some(_) => list.extend([PACKED_TOKENS, SEEN_PACKED]),
            None => list.push(SEEN_PLAIN),
        }
        if self.has_pairs() {
            let bias = if self.bias.is_some() { BIAS } else { NO_BIAS };
            let mask = if self.mask.is_some() { MASK } else { NO_MASK };
            list.extend([PAIRS_ADDED, bias, mask]);
        } else {
            list.push(PAIRS_PLAIN);
        }
        list
    }

    /// The fragments of a kernel that stores outputs.
    pub(super) fn of_outputs(&self) -> [Fragment; 2] {
        [if self.sink { SINK } else { NO_SINK }, if self.lse { LSE } else { NO_LSE }]
    }

    /// Whether single pairs are treated by themselves.
    pub(super) fn has_pairs(&self) -> bool {
        self.bias.is_some() || self.mask.is_some()
    }

    /// Sets what the kernels need to know.
    pub(super) fn set(&self, params: &mut Params, s: &Qkv) {
        params.sequences = self.sequences.unwrap_or(0) as u32;
        params.cap = self.softcap.unwrap_or(0.0);
        params.bias = self.bias.map_or([0; 4], |pairs| pairs.strides(s, s.keys));
        params.mask = self.mask.map_or([0; 4], |pairs| pairs.strides(s, s.keys.div_ceil(32)));
        params.lse = Pairs { batch: true, heads: true }.strides(s, 1);
    }

    /// Slots that are cut along with q, k, v and o if a device's bindings are too small, with the byte offsets of their
    /// strides: those whose heads lie one after another.
    pub(super) fn shares(&self, s: &Qkv, slots: &[Slot]) -> Vec<(usize, usize)> {
        let whole = |pairs: Option<Pairs>| pairs.is_some_and(|pairs| pairs.is_whole(s));
        let all = [
            ("bias", whole(self.bias), offset_of!(Params, bias)),
            ("mask", whole(self.mask), offset_of!(Params, mask)),
            ("lse", self.lse, offset_of!(Params, lse)),
        ];
        let slot = |name: &str| slots.iter().position(|slot| slot.name == name);
        all.into_iter().filter_map(|(name, cut, at)| Some((slot(name).filter(|_| cut)?, at))).collect()
    }

    /// Bytes that a kernel reads of the bias and of the mask if it visits every pair of a query and a key that it sees once.
    pub(super) fn pair_bytes(&self, s: &Qkv, rule: Mask) -> f64 {
        let bias = if self.bias.is_some() { s.dtype.size() } else { 0 };
        let each = bias + if self.mask.is_some() { 4 } else { 0 };
        (s.batch * s.heads) as f64 * rule.pairs(s) * each as f64
    }

    /// Bytes that an invocation reads, at most, to find the keys that so many queries see.
    pub(super) fn seen_bytes(&self, causal: bool, queries: usize) -> f64 {
        let lengths = if self.lengths { 4.0 } else { 0.0 };
        // A search by halves for the border in front of a query, and in the non-causal form for the one behind it.
        let ends = queries * if causal { 1 } else { 2 };
        let loads = self.sequences.map_or(0, |sequences| ends * (sequences.next_power_of_two().ilog2() as usize + 1));
        lengths + 4.0 * loads as f64
    }

    /// Minimum work beside that of q, k, v and o.
    pub(crate) fn essential(&self, s: &Qkv, rule: Mask) -> Cost {
        let pairs = rule.pairs(s);
        let numbers =
            |pairs_of: Option<Pairs>, bits: usize| pairs_of.map_or(0.0, |of| (of.count(s) * bits) as f64 / 8.0 * pairs);
        let few = [
            (self.lengths, s.batch),
            (self.sequences.is_some(), self.sequences.unwrap_or(0).saturating_add(1)),
            (self.sink, s.heads),
        ];
        let few: usize = few.into_iter().filter(|(given, _)| *given).map(|(_, count)| count).sum();
        Cost {
            exps: if self.softcap.is_some() { (s.batch * s.heads) as f64 * pairs } else { 0.0 },
            bytes_read: numbers(self.bias, 8 * s.dtype.size()) + numbers(self.mask, 1) + 4.0 * few as f64,
            bytes_written: if self.lse { 4.0 * (s.batch * s.heads * s.queries) as f64 } else { 0.0 },
            ..Cost::default()
        }
    }
}

/// The whole numbers of a tensor.
#[cfg(feature = "cpu")]
fn u32s<'t>(name: &str, tensors: &'t TensorMap) -> Option<&'t [u32]> {
    match tensors.get(name)?.values() {
        Values::U32(values) => Some(values),
        _ => None,
    }
}
