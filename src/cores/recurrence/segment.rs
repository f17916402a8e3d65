//! The first pass of reduce-then-scan: the states of segments. Pure.

use super::Params;
use super::chunk::COLUMNS;
use super::dispatch::Dispatches;
use super::kernels::{K, STATES, STORED_VECTORS, V};
use super::matrix::BATCH;
use super::stored::Block;
use crate::cores::matrix;
use crate::cores::packed::lookup_bytes;
use crate::gpu::program::{Cost, Step};

impl Dispatches<'_> {
    /// The dispatch that computes the states of a block's segments of `length` tokens, of one part of their rows.
    pub(super) fn segment(&self, part: usize, length: usize, block: &Block, from: Params) -> Step {
        // A carried state is an output in f32: values that decay, and features that are computed, would be rounded to f16.
        let matrix = self.matrix.filter(|_| !self.c.mode.carry);
        let (col_splits, tile) = match matrix {
            Some(_) => (self.c.qkv.dim_v.div_ceil(COLUMNS), BATCH),
            None => (self.tiles.col_splits, self.tiles.segment_tile),
        };
        let params = Params { head_splits: 1, col_splits: col_splits as u32, ..from };
        let segments = params.segments as usize;
        let kv = self.kv(block);
        let each = segments as u64 * col_splits as u64;
        let (tokens, k, v) = self.key_bytes(block);
        let splits = col_splits as f64;
        let cost = Cost {
            flops: tokens * self.touch(),
            exps: 0.0,
            bytes_read: k * splits + v + lookup_bytes(&self.c.mode, false) * (kv * each) as f64,
            bytes_written: (self.states(kv) / self.c.row_splits() as f64
                + (kv as usize * self.c.passed_by_segment() * 4) as f64)
                * segments as f64,
        } + self.c.decay.cost * (tokens * splits)
            + self.features(block, length, tile) * splits;
        let f = &self.c.features;
        let (spans, overrides) = self.spans();
        let overrides = overrides.into_iter().collect();
        // No token reads the state in between.
        let decay = self.c.decay_of_batches();
        let (kernel, spec) = if let Some(units) = matrix {
            let (keys, (_, products)) = (self.c.matrix_keys(), matrix::products(units));
            let fragments = [&[self.chunk_lanes][..], products, &keys, &decay, spans];
            (&self.c.kernels.segment_matrix, self.spec(&fragments, true, self.c.matrix_consts(units), overrides))
        } else {
            let mut consts = self.tiles.consts(self.tiles.segment_tile);
            consts.extend([("READ_HEADS", 0), ("ADVANCED", 0)]);
            consts.extend(&f.consts);
            consts.extend(self.c.stored_consts());
            let fragments = [&[self.lanes][..], &f.keys, &decay, spans];
            (&self.c.kernels.segment, self.spec(&fragments, true, consts, overrides))
        };
        let step =
            self.step(kernel, self.rows_of(spec, &[V, STATES], &[K], &STORED_VECTORS[..2]), params, kv * each, cost);
        self.number(step, block, each).own(self.c.own.get(part))
    }
}
