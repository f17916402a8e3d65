//! The split-K form of the core, for few queries and many keys: when it is chosen, its two dispatches, bytes and flops.

use super::{Attention, Params, Parts, Tiles};
use crate::cores::rows::{K, KEYS_STORED, Q, V, rows as rows_of};
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Scratch, Step};
use crate::gpu::shader::Variant;
use crate::operator::pairs::Align;

/// Keys per workgroup in the split-K form.
const SPLIT_KEYS: usize = 128;
/// Columns per workgroup in the dispatch that combines the splits.
const MERGE_COLUMNS: usize = 64;

impl Attention<'_> {
    /// Whether to use the split-K form: if a key head has so few rows that a block of the tiled form would be mostly
    /// empty, or if the blocks alone would leave the device idle and each has a long cache to process. The partial
    /// outputs must also fit into one binding.
    pub(super) fn splits(&self, caps: &Caps) -> bool {
        let s = self.qkv;
        let rows = s.queries.saturating_mul(s.group());
        let idle = 4 * Tiles::new(s, caps).groups(s) <= caps.full_groups;
        let few = rows <= 8 || (idle && rows <= 256 && self.most_seen() >= 16 * rows);
        // A device has eight bindings. The two dispatches of this form have fewer each.
        let must = self.extras.bindings() > 8;
        must || few && self.partials().saturating_mul(4) <= caps.largest_binding().min(4 * u64::from(u32::MAX))
    }

    /// Number of keys from the first that any query sees to the last.
    fn most_seen(&self) -> usize {
        let s = self.qkv;
        match (self.extras.lengths && self.mask.align == Align::End, self.mask.window) {
            (false, _) => self.mask.span(s).len(),
            // Where the last key is, a run finds out.
            (true, Some(window)) if self.mask.causal => window.saturating_add(s.queries - 1).min(s.keys),
            (true, _) => s.keys,
        }
    }

    /// Elements of the partial outputs: per row and split, E outputs, a maximum and a sum of weights.
    fn partials(&self) -> u64 {
        let s = self.qkv;
        let rows = (s.batch * s.heads) as u64 * s.queries as u64;
        rows.saturating_mul(self.most_seen().div_ceil(SPLIT_KEYS) as u64).saturating_mul(s.dim_v as u64 + 2)
    }

    pub(super) fn split(&self, caps: &Caps) -> Parts {
        let s = self.qkv;
        let rows = s.queries * s.group();
        let split_rows = rows.next_power_of_two().min(8);
        let row_blocks = rows.div_ceil(split_rows);
        // Keys before the first one that any query sees are not read.
        let first = self.mask.span(s).start;
        let seen = self.most_seen();
        let splits = seen.div_ceil(SPLIT_KEYS);
        let col_splits = s.dim_v.div_ceil(MERGE_COLUMNS);
        let all_rows = s.batch * s.heads * s.queries;
        let elements = self.partials();
        let params = Params {
            row_blocks: row_blocks as u32,
            col_splits: col_splits as u32,
            splits: splits as u32,
            first_key: first as u32,
            ..Tiles::new(s, caps).params(s, self.mask, self.score)
        };
        let (units, size) = (s.kv_units() as f64, s.dtype.size() as f64);
        let (d, e) = (s.dim_k as f64, s.dim_v as f64);
        let pairs = units * (row_blocks * split_rows * splits * SPLIT_KEYS) as f64;
        let own = Cost {
            flops: pairs * 2.0 * (d + e),
            exps: pairs,
            bytes_read: (units * (row_blocks * seen) as f64 * (d + e) + units * (rows * splits) as f64 * d) * size
                + self.extras.pair_bytes(s, self.mask),
            bytes_written: elements as f64 * 4.0,
        };
        let merge = Cost {
            flops: (all_rows * splits) as f64 * e * 4.0,
            exps: (all_rows * splits) as f64 * e * 2.0,
            // Every column reads the maximum and the sum.
            bytes_read: (all_rows * splits) as f64 * e * 3.0 * 4.0
                + if self.extras.sink { all_rows as f64 * e * 4.0 } else { 0.0 },
            bytes_written: all_rows as f64 * e * size + if self.extras.lse { all_rows as f64 * 4.0 } else { 0.0 },
        };
        let mut spec = self.weighing(self.fragments[1]);
        spec.consts.push(("SPLIT_ROWS", split_rows as u32));
        let spec = rows_of(s, &spec, KEYS_STORED, &[Q, K, V], [&[], &[]]);
        let own = Step {
            groups: (s.kv_units() * row_blocks * splits) as u64,
            ..self.step(&self.kernels[1], spec, params, own)
        };
        let spec = (Variant::new(s.dtype, vec![], vec![]).with(&self.extras.of_outputs()), None);
        let merge = Step { groups: (all_rows * col_splits) as u64, ..self.step(&self.kernels[2], spec, params, merge) };
        let variant = format!("{splits} splits of {SPLIT_KEYS} keys, {split_rows} rows a workgroup");
        let workspace = vec![Scratch { name: "partial outputs", bytes: elements * 4 }];
        (variant, workspace, vec![self.weighed(own, SPLIT_KEYS, split_rows), merge])
    }
}
