//! One token whose keys, queries and values go through a short convolution in the dispatch of the step: what the kernel
//! needs for it, and the bytes that it moves.
//!
//! The three are columns of one tensor. Every workgroup convolves what it reads, so keys and queries are convolved once per
//! workgroup that reads them. `decode_history.wgsl` says who keeps their inputs.

use super::kernels::{DECODE_CONVOLVED, DECODE_HISTORY, DECODE_HISTORY_NONE, NARROW};
use crate::gpu::shader::Fragment;
use crate::operator::qkv::{Qkv, Strides};
use crate::operator::short_conv::ShortConv;

/// The convolution in front of one token.
pub(crate) struct Convolved {
    pub(crate) conv: ShortConv,
    /// C: columns of a row.
    pub(crate) channels: usize,
    /// The columns at which queries, keys and values start.
    pub(crate) starts: [usize; 3],
    /// The slot of the outputs.
    pub(crate) output: usize,
    /// Fragments that define the taps and SiLU.
    pub(crate) taps: Vec<Fragment>,
}

impl Convolved {
    /// Strides of queries, keys and values.
    pub(super) fn strides(&self, s: &Qkv) -> [Strides; 3] {
        let [q, k, v] = self.starts;
        let row = self.channels as u32;
        [(q, s.dim_k), (k, s.dim_k), (v, s.dim_v)]
            .map(|(start, dim)| [row, dim as u32, row, (start as u32).wrapping_neg()])
    }

    /// The fragments that give the elements of vectors, and access the outputs.
    pub(super) fn fragments(&self) -> Vec<Fragment> {
        let history = if self.conv.span() > 0 { DECODE_HISTORY } else { DECODE_HISTORY_NONE };
        [&self.taps[..], &[NARROW[0], NARROW[4], DECODE_CONVOLVED, history]].concat()
    }

    pub(super) fn consts(&self) -> [(&'static str, u32); 1] {
        [("WIDTH", self.conv.width as u32)]
    }

    pub(super) fn overrides(&self) -> [(&'static str, u32); 2] {
        [("CONV_BIASED", self.conv.bias.into()), ("CONV_SILU", self.conv.silu.into())]
    }

    /// Number of counters: one per head of k, unless no inputs are kept.
    pub(super) fn counters(&self, s: &Qkv) -> usize {
        if self.conv.span() > 0 { s.batch * s.key_heads() } else { 0 }
    }

    /// Bytes of the inputs that the taps of a column meet, and of the taps with the bias.
    fn column(&self, s: &Qkv) -> [f64; 2] {
        let taps = self.conv.width + usize::from(self.conv.bias);
        [(s.dtype.size() + 4 * self.conv.span()) as f64, (4 * taps) as f64]
    }

    /// Bytes that are read if `splits` workgroups share the columns of a head of v, in addition to reading everything once.
    pub(super) fn bytes_again(&self, s: &Qkv, splits: usize) -> f64 {
        let [inputs, taps] = self.column(s);
        let once = (s.batch * self.channels) as f64 * inputs + self.channels as f64 * taps;
        let heads = s.kv_units() as f64;
        let vectors = heads * (splits * (1 + s.group()) * s.dim_k + s.dim_v) as f64;
        // The workgroup that keeps the inputs of keys and queries loads them again.
        let kept =
            if self.conv.span() > 0 { heads / s.shared as f64 * ((1 + s.group()) * s.dim_k) as f64 } else { 0.0 };
        vectors * (inputs + taps) + kept * inputs - once
    }
}
