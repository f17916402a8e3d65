//! How a workgroup holds its part of a state, and how the sequence is walked.

use super::Core;
use crate::gpu::Caps;
use crate::ops::walk;

/// Bytes of workgroup memory on a portable device.
const WORKGROUP_BYTES: usize = 16384;

/// How one workgroup holds its part of a state and how many tokens it takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of the state in one invocation; a multiple of 4.
    pub rows: usize,
    /// Invocations along the rows: `rows * row_threads` is the width rounded up.
    pub row_threads: usize,
    /// Invocations along the columns, four columns each.
    pub col_threads: usize,
    /// Tokens in workgroup memory at a time.
    pub tile: usize,
    /// Query heads that share the workgroup.
    pub read_heads: usize,
    /// Workgroups that share the columns.
    pub col_splits: usize,
    /// Workgroups that share the query heads of a key head.
    pub head_splits: usize,
    /// Floats of the features of one token in workgroup memory.
    pub token_floats: usize,
    /// Floats of the decay of one token there.
    pub decay_floats: usize,
    /// Floats there beside those of tokens.
    pub fixed_floats: usize,
}

/// Counts of invocations along an axis: widths are rounded up to few sizes, so that pipelines stay few.
const LADDER: [usize; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];

fn rung(needed: usize) -> usize {
    LADDER.into_iter().find(|&n| n >= needed).unwrap_or(256)
}

/// Invocations of a workgroup at most.
const INVOCATIONS: usize = 256;

/// Rows that one workgroup can hold.
pub(crate) const MOST_ROWS: usize = INVOCATIONS * 16;

impl Tiles {
    /// Tiles for so many rows, `dim_v` columns and `group` query heads a key head. A token's features take `token_floats` of
    /// workgroup memory (`None`: as many as rows), and `fixed_floats` are taken once. A token decays nothing, all rows by one
    /// factor or each by its own (`decays` of 0, 1 or more).
    pub fn new(
        rows: usize,
        dim_v: usize,
        group: usize,
        token_floats: Option<usize>,
        decays: usize,
        fixed_floats: usize,
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
            read_heads: group,
            col_splits,
            head_splits: 1,
            token_floats: token_floats.unwrap_or(each * row_threads),
            // Kept as vec4s, of all rows that the workgroup has room for.
            decay_floats: if decays > 1 { each * row_threads } else { 4 * decays },
            fixed_floats,
        };
        while tiles.read_heads > 1 && tiles.with_tile(2).workgroup_bytes() > WORKGROUP_BYTES {
            tiles.read_heads = tiles.read_heads.div_ceil(2);
        }
        tiles.head_splits = group.div_ceil(tiles.read_heads);
        let fits = |tile: &usize| tiles.with_tile(*tile).workgroup_bytes() <= WORKGROUP_BYTES;
        tiles.tile = [32, 16, 8, 4, 2].into_iter().find(fits).unwrap_or(1);
        tiles
    }

    fn with_tile(self, tile: usize) -> Self {
        Self { tile, ..self }
    }

    /// Bytes of workgroup memory of the kernel that writes outputs.
    pub fn workgroup_bytes(&self) -> usize {
        let cols = 4 * self.col_threads;
        let weights = (self.read_heads * self.tile * self.row_threads).next_multiple_of(4);
        let keys = self.tile * (self.token_floats + self.decay_floats + cols);
        let queries = self.read_heads * self.tile * (self.token_floats + self.row_threads * cols);
        4 * (self.fixed_floats + keys + queries + weights)
    }

    pub(crate) fn consts(&self) -> Vec<(&'static str, u32)> {
        vec![
            ("TILE", self.tile as u32),
            ("ROWS", self.rows as u32),
            ("ROW_THREADS", self.row_threads as u32),
            ("COL_THREADS", self.col_threads as u32),
        ]
    }
}

/// How the sequence is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// One token, one dispatch.
    Decode,
    /// One workgroup walks a head from end to end.
    OnePass,
    /// Segment states, a scan over them, a second walk; tokens in a segment of keys and of queries.
    TwoPasses {
        /// Tokens in a segment of keys.
        keys: usize,
        /// Tokens in a segment of queries; the same when causal.
        queries: usize,
    },
}

impl Core<'_> {
    /// Bytes that the state of a segment and a token move: a state is written, read and written by the scan, read by every
    /// head split, its sums of features by every column split.
    fn traffic(&self, tiles: &Tiles) -> [usize; 2] {
        let sums = if self.normalize { (tiles.col_splits - 1) * tiles.head_splits * self.rows } else { 0 };
        let state = 4 * ((3 + tiles.head_splits) * self.state_len() + sums + 2 * self.passed_len());
        [state, (self.qkv.dim_k + self.qkv.dim_v) * (1 + self.qkv.group()) * self.qkv.dtype.size()]
    }

    /// The longest segment with which a machine full of workgroups stays within the work of one dispatch.
    fn longest_segment(&self, tiles: &Tiles, caps: &Caps) -> usize {
        let share = (tiles.col_splits * self.row_splits) as f64;
        let token = 2.0 * self.state_len() as f64 / share * (1 + tiles.read_heads) as f64;
        (caps.dispatch_flops / (caps.full_groups as f64 * token)) as usize
    }

    /// Chooses the walk.
    pub(crate) fn walk(&self, tiles: &Tiles, caps: &Caps) -> Walk {
        let s = self.qkv;
        if self.decode {
            return Walk::Decode;
        }
        if let Some(segment) = self.segment {
            return Walk::TwoPasses { keys: segment.min(s.keys), queries: segment.min(s.queries) };
        }
        let [state, token] = self.traffic(tiles);
        let longest = self.longest_segment(tiles, caps);
        let groups = (s.batch * s.kv_heads * tiles.col_splits * tiles.head_splits) as u64;
        let fills = 2 * groups > caps.full_groups;
        let wanted = if fills { 1 } else { caps.full_groups.div_ceil(groups) as usize };
        let split = |tokens: usize| {
            let segments = walk::segments(tokens, state, token, wanted, longest);
            tokens.div_ceil(segments).next_multiple_of(tiles.tile)
        };
        let segment = split(s.keys);
        if !self.causal {
            return Walk::TwoPasses { keys: segment, queries: split(s.queries) };
        }
        if segment >= s.keys { Walk::OnePass } else { Walk::TwoPasses { keys: segment, queries: segment } }
    }
}
