//! The chunk form by matrix units, for f16 storage, because the units multiply f16: when a plan takes it, its kernels' variants and
//! the workgroup memory that they need. Pure.

use super::chunk::{CHUNK, COL_THREADS, COLUMNS};
use super::kernels::{BY_TOKEN, CHUNK_MAPPED, CHUNK_VALUES, DECAY_BATCHES, DECAY_TOKENS};
use super::{ChunkFeatures, DecayKind, Recurrence};
use crate::cores::matrix;
use crate::gpu::shader::Fragment;
use crate::gpu::{Caps, Matrix};
use crate::tensor::DType;

/// Tokens of a batch of the segment kernel: BATCH in `shaders/cores/recurrence/segment_matrix.wgsl`.
pub(super) const BATCH: usize = 32;

/// Tokens of a segment, unless one is given: products with chunks before a chunk's own cost little.
pub(super) const SEGMENT: usize = 2 * CHUNK;

/// The widest features: a subgroup holds its share of a state in registers.
const WIDEST: usize = 128;

/// Rows of a block, and groups of four features in a slice.
const ROWS: usize = 64;
const SLICE: usize = 8;

/// The fewest invocations of a subgroup: so many sum the decays of a segment.
const FEWEST_LANES: usize = 8;

impl Recurrence<'_> {
    /// The matrix units that the chunk form takes, if the device has such and they suit the run. The choice does not depend on the
    /// length where a segment is given.
    pub(super) fn units(&self, caps: &Caps) -> Option<Matrix> {
        let units = caps.matrix?;
        let chunks = self.mode.segment.unwrap_or(SEGMENT).div_ceil(CHUNK);
        let features = self.features.chunk.as_ref()?;
        // Features that are products of two factors have kernels of their own.
        let single = features.scored == self.features.rows && self.features.stored.is_none();
        let suits = self.qkv.dtype == DType::F16 && self.features.rows <= WIDEST && single;
        let bytes = self.segment_bytes().max(self.chunk_bytes(units, chunks));
        // A workgroup of more invocations leaves some without elements of a block.
        let few = matrix::invocations(units) <= 8 * ROWS;
        (suits && few && matrix::fits(units, FEWEST_LANES, bytes, caps)).then_some(units)
    }

    /// Bytes of workgroup memory of both kernels: elements of f32, of f16 in groups of four, and decays.
    fn segment_bytes(&self) -> usize {
        let decays = if self.decay.kind == DecayKind::None { 0 } else { 3 * 4 * BATCH + 16 };
        FLOATS + 8 * (self.features.rows.next_multiple_of(ROWS) + COLUMNS) * (BATCH / 4 + 2) + decays + 16
    }

    fn chunk_bytes(&self, units: Matrix, chunks: usize) -> usize {
        let slices = 2 * (ROWS + COLUMNS) * (SLICE + 2);
        let weights = ROWS * (COL_THREADS + 2) + COLUMNS * (ROWS / 4 + 2);
        let parts = (matrix::invocations(units) / ROWS).max(1);
        let decays = if self.decay.kind == DecayKind::None { 0 } else { 3 * 4 * ROWS * chunks };
        FLOATS + 8 * slices.max(weights) + 16 * SLICE + 4 * ROWS * parts + decays + 16
    }

    /// Consts of both kernels.
    pub(super) fn matrix_consts(&self, units: Matrix) -> Vec<(&'static str, u32)> {
        let (mut consts, _) = matrix::products(units);
        let exact = self.features.chunk.as_ref().is_none_or(|features| features.exact);
        consts.push(("FEATURE_UNITS", (!exact).into()));
        consts.extend([("WIDTH", self.features.rows as u32), ("NORMED", self.normalize.is_some().into())]);
        consts.extend(&self.features.consts);
        consts
    }

    /// Fragments of features of keys and of values.
    pub(super) fn matrix_keys(&self) -> Vec<Fragment> {
        let of_keys = |features: &ChunkFeatures| {
            let both = features.fragments.iter().copied().filter(|fragment| *fragment != CHUNK_MAPPED[2]);
            both.chain([features.keys, CHUNK_VALUES]).collect()
        };
        self.features.chunk.as_ref().map(of_keys).unwrap_or_default()
    }

    /// The decay of a kernel that stores a state and reads none in between.
    pub(super) fn decay_of_batches(&self) -> Vec<Fragment> {
        let by_batch = self.decay.tiled.contains(&DECAY_TOKENS);
        let own = |one: &Fragment| if *one == DECAY_TOKENS { DECAY_BATCHES } else { *one };
        self.decay.tiled.iter().map(own).chain((!by_batch).then_some(BY_TOKEN)).collect()
    }
}

/// Bytes of half of the columns of a block, with padding.
const FLOATS: usize = 16 * ROWS * (COLUMNS / 8 + 1);
