//! Chooses how a workgroup stores its part of a state, and how the sequence is split into segments.

use super::Recurrence;
use super::kernels::MAPPED_DECODE;
use crate::cores::segments;
use crate::gpu::Caps;
use crate::gpu::caps::Algorithm;
use crate::operator::mode::Mode;

/// Bytes of workgroup memory on a portable device.
pub(crate) const WORKGROUP_BYTES: usize = 16384;

/// Bytes of workgroup memory per invocation that leave room for four waves of 64: half of the 64 KiB of a compute
/// unit of AMD's, over 4 times 64 invocations.
const BYTES_PER_INVOCATION: usize = 128;

/// The most tokens that one dispatch takes from a carried state, and rows of a state that it can have.
const FEW: usize = 8;
const FEW_ROWS: usize = 256;

/// Whether a run of so many tokens from a carried state with so many rows is one dispatch that takes them one after another. Lengths of
/// segments promise the same bits for any pieces, so there the tokens are taken by segments.
pub(crate) fn few(mode: &Mode, tokens: usize, rows: usize, caps: &Caps) -> bool {
    let plain = mode.carry && mode.causal && mode.segment.is_none() && mode.sequences.is_none();
    plain && tokens <= FEW && rows <= FEW_ROWS && caps.recurrence == Algorithm::Fastest
}

/// Names that dispatch, for people.
pub(crate) fn few_told(tokens: usize) -> String {
    format!("{tokens} token{} from a state in one dispatch", if tokens == 1 { "" } else { "s" })
}

/// How one workgroup stores its part of a state, and how many tokens it processes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of the state per invocation; a multiple of 4.
    pub rows: usize,
    /// Invocations along the rows: `rows * row_threads` is the number of rows of the state, rounded up.
    pub row_threads: usize,
    /// Invocations along the columns, four columns each.
    pub col_threads: usize,
    /// Tokens in workgroup memory at a time, in the output kernel.
    pub tile: usize,
    /// Tokens in workgroup memory at a time, in the segment kernel: a multiple of `tile`.
    pub segment_tile: usize,
    /// Query heads per workgroup.
    pub read_heads: usize,
    /// Workgroups that the columns are split over.
    pub col_splits: usize,
    /// Workgroups that the query heads of a key head are split over.
    pub head_splits: usize,
    /// Floats of workgroup memory for the features of one token.
    pub token_floats: usize,
    /// Floats of workgroup memory for the decay of one token.
    pub decay_floats: usize,
    /// Floats of workgroup memory in addition to those for tokens.
    pub fixed_floats: usize,
    /// Whether sums of features are kept.
    pub normalize: bool,
}

/// Allowed numbers of invocations along an axis. Sizes are rounded up to these, so that there are few different
/// pipelines.
const LADDER: [usize; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];

fn rung(needed: usize) -> usize {
    LADDER.into_iter().find(|&n| n >= needed).unwrap_or(256)
}

/// Maximum number of invocations per workgroup.
const INVOCATIONS: usize = 256;

/// Tokens whose decays are prepared at a time, if a head has one: BATCH in `shaders/cores/recurrence/rank_one_update.wgsl`.
const BATCH: usize = 32;

/// Maximum number of rows that one workgroup can hold.
pub(crate) const MOST_ROWS: usize = INVOCATIONS * 16;

impl Tiles {
    /// Chooses tiles for `rows` rows, `dim_v` columns and `group` query heads per key head. The features of a token use
    /// `token_floats` floats of workgroup memory (`None`: one per row), and `fixed_floats` floats are used once.
    /// `decays` is the number of decay factors per token: 0, 1 for all rows, or more for one per row. `normalize`
    /// says whether sums of features are kept.
    pub fn new(
        rows: usize,
        dim_v: usize,
        group: usize,
        token_floats: Option<usize>,
        decays: usize,
        fixed_floats: usize,
        normalize: bool,
    ) -> Self {
        // More rows in registers mean fewer partial sums; fewer rows mean more invocations for small heads.
        let each = match rows {
            ..32 => 4,
            32..64 => 8,
            _ => 16,
        };
        let row_threads = rung(rows.div_ceil(each));
        let most_cols = (INVOCATIONS / row_threads).min(16);
        let col_splits = dim_v.div_ceil(4 * most_cols);
        let col_threads = rung(dim_v.div_ceil(col_splits).div_ceil(4)).min(most_cols);
        let mut tiles = Self {
            rows: each,
            row_threads,
            col_threads,
            tile: 1,
            segment_tile: 1,
            read_heads: group,
            col_splits,
            head_splits: 1,
            token_floats: token_floats.unwrap_or(each * row_threads),
            // For all rows that the workgroup has room for.
            decay_floats: if decays > 1 { each * row_threads } else { 0 },
            // One decay per head: its factor, its logarithm and the factor of the values.
            fixed_floats: fixed_floats + if decays == 1 { 3 * BATCH } else { 0 },
            normalize,
        };
        // Very wide features leave room for few columns.
        let narrow = |tiles: &Self| Self { read_heads: 1, ..*tiles }.workgroup_bytes() > WORKGROUP_BYTES;
        while tiles.col_threads > 1 && narrow(&tiles) {
            tiles.col_threads /= 2;
            tiles.col_splits = dim_v.div_ceil(4 * tiles.col_threads);
        }
        while tiles.read_heads > 1 && tiles.with_tile(2).workgroup_bytes() > WORKGROUP_BYTES {
            tiles.read_heads = tiles.read_heads.div_ceil(2);
        }
        tiles.head_splits = group.div_ceil(tiles.read_heads);
        let fits = |tile: &usize| tiles.with_tile(*tile).workgroup_bytes() <= WORKGROUP_BYTES;
        tiles.tile = [32, 16, 8, 4, 2].into_iter().find(fits).unwrap_or(1);
        tiles.segment_tile = tiles.tile;
        tiles
    }

    /// Makes the tiles of the output kernel so small that several workgroups fit a compute unit. Larger ones save few
    /// instructions: 4 tokens instead of 8 take 3 % more, and twice as many waves hide the latency of loads.
    pub fn for_several(self) -> Self {
        let most = BYTES_PER_INVOCATION * (self.row_threads * self.col_threads).next_multiple_of(64);
        // Arrays of one element that such a kernel does not use take no memory once it is compiled.
        let unused = if self.normalize { 0 } else { 16 };
        let fits = |tile: &usize| self.with_tile(*tile).workgroup_bytes() <= most + 4 * self.fixed_floats + unused;
        let tiles = [32, 16, 8, 4, 2];
        let tile = tiles.into_iter().filter(|tile| *tile <= self.tile).find(fits).unwrap_or(self.tile.min(2));
        // The segment kernel has neither queries nor partial sums.
        let small = |tile: &usize| self.segment_bytes(*tile) <= most / 2;
        let segment_tile = [8, 4, 2].into_iter().find(small).unwrap_or(1).max(tile);
        Self { tile, segment_tile, ..self }
    }

    fn with_tile(self, tile: usize) -> Self {
        Self { tile, ..self }
    }

    /// Bytes of workgroup memory of the output kernel.
    pub fn workgroup_bytes(&self) -> usize {
        let cols = 4 * self.col_threads;
        let weights =
            if self.normalize { self.read_heads * self.tile * self.row_threads * self.col_threads } else { 4 };
        let keys = self.tile * (self.token_floats + self.decay_floats + cols);
        let queries = self.read_heads * self.tile * (self.token_floats + self.row_threads * cols);
        4 * (self.fixed_floats + keys + queries + weights)
    }

    /// Bytes of workgroup memory of the segment kernel with tiles of so many tokens: the logarithms of decays are
    /// there beside the decays.
    pub(crate) fn segment_bytes(&self, tile: usize) -> usize {
        4 * (self.fixed_floats + tile * (self.token_floats + 2 * self.decay_floats + 4 * self.col_threads))
    }

    /// Consts of a kernel with tiles of so many tokens.
    pub(crate) fn consts(&self, tile: usize) -> Vec<(&'static str, u32)> {
        vec![
            ("TILE", tile as u32),
            ("ROWS", self.rows as u32),
            ("ROW_THREADS", self.row_threads as u32),
            ("COL_THREADS", self.col_threads as u32),
            ("NORMED", self.normalize.into()),
        ]
    }
}

/// How the sequence is processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passes {
    /// One token in one dispatch.
    Decode,
    /// A few tokens from a carried state in one dispatch.
    Few,
    /// A workgroup processes all tokens of a head in order.
    Sequential,
    /// Reduce-then-scan: computes the state of each segment, scans these states, then processes each segment from the
    /// state it starts with.
    ReduceThenScan {
        /// Tokens in a segment of keys.
        keys: usize,
        /// Tokens in a segment of queries; the same when causal.
        queries: usize,
    },
    /// Reduce-then-scan with products of chunks as the last pass.
    Chunks {
        /// Tokens in a segment.
        segment: usize,
    },
}

impl Recurrence<'_> {
    /// Bytes of memory traffic per segment state, and per token. A segment state is written once, read and written by
    /// the scan, and read by every head split. Its sums of features are also read by every column split.
    fn traffic(&self, tiles: &Tiles) -> [usize; 2] {
        let sums =
            if self.normalize.is_some() { (tiles.col_splits - 1) * tiles.head_splits * self.features.rows } else { 0 };
        let state = 4 * ((3 + tiles.head_splits) * self.state_len() + sums + 2 * self.passed_len());
        [state, (self.qkv.dim_k + self.qkv.dim_v) * (1 + self.qkv.group()) * self.qkv.dtype.size()]
    }

    /// The longest segment for which one dispatch that fills the device stays within the work limit of a dispatch.
    fn longest_segment(&self, tiles: &Tiles, caps: &Caps) -> usize {
        let share = (tiles.col_splits * self.row_splits()) as f64;
        let token = 2.0 * self.state_len() as f64 / share * (1 + tiles.read_heads) as f64;
        (caps.dispatch_flops / (caps.full_groups as f64 * token)) as usize
    }

    /// The largest number of segments whose states one binding holds.
    pub(super) fn most_segments(&self, caps: &Caps) -> usize {
        let stride = (self.state_len() + self.passed_len()).next_multiple_of(4);
        let most = caps.largest_binding() / (4 * stride as u64 * self.qkv.kv_units() as u64);
        // Packed sequences take one segment more each.
        (most as usize).saturating_sub(self.mode.sequences.unwrap_or(0)).max(1)
    }

    /// Chooses how to process the sequence.
    pub(crate) fn walk(&self, tiles: &Tiles, caps: &Caps) -> Passes {
        if self.mode.decode {
            return Passes::Decode;
        }
        let elementwise = self.features.decode.contains(&MAPPED_DECODE) && self.normalize.is_none();
        if elementwise && few(&self.mode, self.qkv.keys, self.features.rows, caps) {
            return Passes::Few;
        }
        match self.chunk_segment(tiles, caps) {
            Ok(segment) => Passes::Chunks { segment },
            Err(_) => self.by_token(tiles, caps),
        }
    }

    /// Chooses how to walk along the tokens.
    pub(super) fn by_token(&self, tiles: &Tiles, caps: &Caps) -> Passes {
        let s = self.qkv;
        if let Some(segment) = self.mode.segment {
            return Passes::ReduceThenScan { keys: segment.min(s.keys), queries: segment.min(s.queries) };
        }
        let [state, token] = self.traffic(tiles);
        let longest = self.longest_segment(tiles, caps);
        let sequences = self.mode.states(s.batch);
        let groups = (sequences * s.kv_heads * tiles.col_splits * tiles.head_splits) as u64;
        let fills = 2 * groups >= caps.full_groups;
        // Each block whose features are stored fills the device by itself.
        let blocks = self.fillings(s.keys.max(s.queries), caps);
        let wanted = if fills && blocks == 1 { 1 } else { (blocks * caps.full_groups).div_ceil(groups) as usize };
        let split = |tokens: usize| {
            let segments = segments::segments(tokens, state, token, wanted, longest);
            let stored = tokens.div_ceil(self.longest_stored(caps));
            tokens.div_ceil(segments.max(stored).min(self.most_segments(caps))).next_multiple_of(tiles.segment_tile)
        };
        let segment = split(s.keys);
        if !self.mode.causal {
            return Passes::ReduceThenScan { keys: segment, queries: split(s.queries) };
        }
        if self.mode.sequences.is_some() {
            let segment = segment.min(s.keys);
            return Passes::ReduceThenScan { keys: segment, queries: segment };
        }
        if segment >= s.keys { Passes::Sequential } else { Passes::ReduceThenScan { keys: segment, queries: segment } }
    }
}
