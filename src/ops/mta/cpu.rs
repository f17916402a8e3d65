//! The `cpu` backend: blocks of queries are compared with tiles of the keys that they see, for one head or for all
//! heads that are mixed, including the rows and columns around a tile that its convolutions reach. If the softmax is
//! the last stage of the weights, its maxima and sums are computed together with the output, otherwise in a separate
//! pass.

use crate::cpu::{channels, simd};
use std::ops::Range;

use super::{Config, Gates, NORM_EPS, Taps};
use crate::cores::attention::cpu as attention;
use crate::cores::attention::cpu::{Attend, Beside, Score, Weights};
use crate::cpu::matrix::{Mat, Onto, product};
use crate::cpu::simd::{exp_signed, wide};
use crate::cpu::threads::{each, each_mut, scratch, zeros};
use crate::cpu::tiles::{Output, Source};
use crate::operator::qkv::Qkv;
use crate::tensor::{DType, HostTensor, Layout, TensorMap};

/// The maximum of a query that has seen no key yet. It is finite, and no finite score is lower.
const LOWEST: f32 = f32::MIN;

/// Rows that the norm and the gate process at a time.
const FINISHED: usize = 64;

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let s = &config.qkv;
    let tensor = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let [q, k, v] = ["q", "k", "v"].map(|name| Source::new(tensor(name), s.layout, None));
    let tail_shape = [s.batch, s.heads, config.tail(), s.dim_k];
    let tail = config.tail_slot().map(|slot| match tensors.get("q_tail") {
        Some(tail) => tail.clone(),
        None => HostTensor::zeros(slot.shape(), DType::F32),
    });
    // Outputs are rounded to the storage type only after the norm and the gate.
    let o = Output::new(DType::F32, s.layout, [s.batch, s.heads, s.queries, s.dim_v]);
    if config.plain() {
        let score = Score::Scaled(config.effective_scale());
        let (seen, beside) = (config.mask().into(), Beside::default());
        Attend { shape: *s, seen, lengths: None, score, weights: Weights::Softmax, beside, q, k, v }.run(&o);
    } else {
        let weight = |name: &str, given: bool| if given { tensor(name).to_f32() } else { Vec::new() };
        let core = Core {
            c: config,
            tiles: Tiles::new(config),
            q,
            k,
            v,
            q_tail: tail.as_ref().map(|tail| Source::new(tail, Layout::Bhnd, None)),
            kq_pre: weight("kq_pre", config.kq_pre.is_some()),
            kq_post: weight("kq_post", config.kq_post.is_some()),
            head_pre: weight("head_pre", config.head_pre),
            head_post: weight("head_post", config.head_post.is_some()),
        };
        let stats = if config.post() { core.stats() } else { Vec::new() };
        core.outputs(&stats, &o);
    }
    let mut outputs = TensorMap::new();
    outputs.insert("o", finish(config, tensors, o.finish()).cast(s.dtype));
    if let Some(tail) = tail {
        let q = Source::new(tensor("q"), s.layout, None);
        outputs.insert("q_tail", HostTensor::f32(tail_shape, last_queries(config, &tail.to_f32(), &q)));
    }
    outputs
}

/// Describes the algorithm, for people.
pub(super) fn variant(c: &Config) -> String {
    if c.plain() {
        return attention::variant();
    }
    let tiles = Tiles::new(c);
    let Tiles { rows, keys, heads } = tiles;
    format!("tiles of {rows} queries x {heads} heads by {keys} keys, scores computed {:.1} times", tiles.recompute(c))
}

/// The last T rows of q_tail followed by q, for every head.
fn last_queries(c: &Config, tail: &[f32], q: &Source<'_>) -> Vec<f32> {
    let Qkv { batch, heads, queries, dim_k, .. } = c.qkv;
    let rows = c.tail();
    let mut last = Vec::with_capacity(tail.len());
    let mut space = vec![0.0; rows * dim_k];
    for (head, tail) in tail.chunks_exact(rows * dim_k).enumerate().take(batch * heads) {
        let new = rows.min(queries);
        last.extend_from_slice(&tail[new * dim_k..]);
        let tile = q.tile(head / heads, head % heads, queries - new..queries, &mut space);
        (0..new).for_each(|i| last.extend_from_slice(tile.row(i, dim_k)));
    }
    last
}

/// The tile sizes of rows, keys and heads.
struct Tiles {
    rows: usize,
    keys: usize,
    /// Heads per task: those that are mixed with each other.
    heads: usize,
}

impl Tiles {
    fn new(c: &Config) -> Self {
        let heads = if c.head_pre { c.qkv.heads } else { c.head_post.unwrap_or(1) };
        let (rows, keys) = if heads == 1 { (64, 256) } else { (32, 128) };
        Self { rows: rows.min(c.qkv.queries), keys: keys.min(c.qkv.keys), heads }
    }

    /// How often each score is computed, except near the ends of the sequence.
    fn recompute(&self, c: &Config) -> f64 {
        let area = |(rows, keys): (usize, usize)| ((self.rows + rows) * (self.keys + 2 * keys)) as f64;
        let (pre, post) = (Taps::halo(c.kq_pre), Taps::halo(c.kq_post));
        // The pass for maxima and sums does not need the rows and keys that only the convolution after the softmax
        // reaches.
        let first = if c.post() { area(pre) } else { 0.0 };
        (first + area((pre.0 + post.0, pre.1 + post.1))) / (self.rows * self.keys) as f64
    }
}

/// A range of rows of queries (those below 0 are in q_tail), or of columns of keys. It may extend beyond the sequence.
type Span = Range<isize>;

struct Core<'a> {
    c: &'a Config,
    tiles: Tiles,
    q: Source<'a>,
    k: Source<'a>,
    v: Source<'a>,
    q_tail: Option<Source<'a>>,
    kq_pre: Vec<f32>,
    kq_post: Vec<f32>,
    head_pre: Vec<f32>,
    head_post: Vec<f32>,
}

/// Buffers of a task: rows of q, keys, raw scores of a head, and scores of all heads before they are mixed.
struct Space<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    raw: &'a mut [f32],
    unmixed: &'a mut [f32],
}

fn len(span: &Span) -> usize {
    (span.end - span.start).max(0) as usize
}

/// Extends a tile by the reach of a convolution kernel.
fn wider(rows: &Span, cols: &Span, (up, side): (usize, usize)) -> (Span, Span) {
    (rows.start - up as isize..rows.end, cols.start - side as isize..cols.end + side as isize)
}

impl Core<'_> {
    fn sets(&self) -> usize {
        self.c.qkv.heads / self.tiles.heads
    }

    /// First of the rows whose maxima and sums are stored: the rows of q, and earlier rows whose weights the
    /// convolution reaches.
    fn first_row(&self) -> isize {
        -(Taps::halo(self.c.kq_post).0.min(self.c.rows_before()) as isize)
    }

    /// Approximate flops of all tasks.
    fn work(&self) -> u64 {
        let s = &self.c.qkv;
        (super::layout::essential(self.c).flops * 1.5) as u64 + (s.batch * s.heads) as u64
    }

    /// Sizes of a [`Space`] for tiles of `rows` rows and `cols` keys.
    fn space(&self, rows: usize, cols: usize) -> [usize; 4] {
        let (up, side) = Taps::halo(self.c.kq_pre);
        let (rows_all, cols_all) = (rows + up, cols + 2 * side);
        let unmixed = if self.c.head_pre { self.tiles.heads * rows * cols } else { 0 };
        [rows_all * self.c.qkv.dim_k, cols_all * self.c.qkv.dim_k, rows_all * cols_all, unmixed]
    }

    /// Computes the raw scores of a head, 0 where a row does not see a key.
    fn raw(
        &self,
        [batch, head]: [usize; 2],
        (rows, cols): (&Span, &Span),
        q: &mut [f32],
        k: &mut [f32],
        to: &mut [f32],
    ) {
        let s = &self.c.qkv;
        let (height, width, d) = (len(rows), len(cols), s.dim_k);
        let q = &mut q[..height * d];
        self.queries(batch, head, rows, q);
        let seen = cols.start.max(0)..cols.end.min(s.keys as isize);
        if !seen.is_empty() {
            let k = self.k.tile(batch, head / s.group(), seen.start as usize..seen.end as usize, k);
            let at = (seen.start - cols.start) as usize;
            product([height, d, len(&seen)], Mat::rows(q, d), k.t(), Onto::Nothing, &mut to[at..height * width], width);
        }
        for (row, to) in rows.clone().zip(to.chunks_exact_mut(width)) {
            let end = (self.c.keys_seen(row) as isize - cols.start).clamp(0, width as isize) as usize;
            to[..width.min((-cols.start).max(0) as usize)].fill(0.0);
            to[end..].fill(0.0);
        }
    }

    /// Copies rows of a head's queries, scaled; zeros where there are none.
    fn queries(&self, batch: usize, head: usize, rows: &Span, to: &mut [f32]) {
        let d = self.c.qkv.dim_k;
        let before = self.c.rows_before() as isize;
        to.fill(0.0);
        let mut copy = |source: &Source<'_>, wanted: Span, first: isize| {
            if wanted.is_empty() {
                return;
            }
            let at = (wanted.start - rows.start) as usize * d;
            let tokens = (wanted.start - first) as usize..(wanted.end - first) as usize;
            let to = &mut to[at..][..tokens.len() * d];
            // `tile` may return the values in place, without writing to `space`, so they are copied from its result.
            let mut space = vec![0.0; tokens.len() * d];
            let tile = source.tile(batch, head, tokens, &mut space);
            to.chunks_exact_mut(d).enumerate().for_each(|(i, to)| to.copy_from_slice(tile.row(i, d)));
        };
        if let Some(tail) = &self.q_tail {
            copy(tail, rows.start.max(-before)..rows.end.min(0), -before);
        }
        copy(&self.q, rows.start.max(0)..rows.end, 0);
        simd::scale(to, self.c.effective_scale());
    }

    /// Computes the scores of some heads before the softmax, `[head][row][column]`. Scores at keys that a row does not
    /// see are arbitrary.
    fn scores(
        &self,
        batch: usize,
        heads: Range<usize>,
        rows: &Span,
        cols: &Span,
        space: &mut Space<'_>,
        to: &mut [f32],
    ) {
        let (height, width) = (len(rows), len(cols));
        let cells = height * width;
        let to = &mut to[..heads.len() * cells];
        let unmixed = if self.c.head_pre { &mut space.unmixed[..to.len()] } else { &mut *to };
        for (head, to) in heads.clone().zip(unmixed.chunks_exact_mut(cells)) {
            match self.c.kq_pre {
                None => self.raw([batch, head], (rows, cols), space.q, space.k, to),
                Some(taps) => {
                    let (all_rows, all_cols) = wider(rows, cols, Taps::halo(self.c.kq_pre));
                    let raw = &mut space.raw[..len(&all_rows) * len(&all_cols)];
                    self.raw([batch, head], (&all_rows, &all_cols), space.q, space.k, raw);
                    convolve(to, raw, of_head(&self.kq_pre, taps, head), width, taps);
                }
            }
        }
        if self.c.head_pre {
            let size = heads.len();
            let (mix, scores) = (Mat::rows(&self.head_pre, size), Mat::rows(&space.unmixed[..size * cells], cells));
            product([size, size, cells], mix, scores, Onto::Nothing, to, cells);
        }
    }

    /// The columns in `cols` that a row sees, relative to the first of them.
    fn seen(&self, row: isize, cols: &Span) -> Range<usize> {
        let width = len(cols) as isize;
        let end = (self.c.keys_seen(row) as isize - cols.start).clamp(0, width);
        (-cols.start).clamp(0, end) as usize..end as usize
    }

    /// For every set of heads and block of rows: the maxima of the rows, then the reciprocals of their sums,
    /// `[head][row]` each.
    fn stats(&self) -> Vec<f32> {
        let (s, t) = (&self.c.qkv, &self.tiles);
        let blocks = self.blocks();
        let piece = t.heads * t.rows * 2;
        let mut stats = zeros(s.batch * self.sets() * blocks * piece);
        let tasks = (stats.len() / piece) as u64;
        each_mut(&mut stats, piece, self.work() / tasks, |task, stats| {
            let (unit, block) = (task / blocks, task % blocks);
            let heads = unit % self.sets() * t.heads..(unit % self.sets() + 1) * t.heads;
            let first = self.first_row() + (block * t.rows) as isize;
            let rows = first..(first + t.rows as isize).min(s.queries as isize);
            let (tops, sums) = stats.split_at_mut(t.heads * t.rows);
            tops.fill(LOWEST);
            let cells = t.rows * t.keys;
            let [q, k, raw, unmixed] = self.space(t.rows, t.keys);
            scratch([q, k, raw, unmixed, t.heads * cells], |[q, k, raw, unmixed, scores]| {
                let mut space = Space { q, k, raw, unmixed };
                for key in (0..self.c.keys_seen(rows.end - 1)).step_by(t.keys) {
                    let cols = key as isize..(key + t.keys).min(s.keys) as isize;
                    self.scores(unit / self.sets(), heads.clone(), &rows, &cols, &mut space, scores);
                    let width = len(&cols);
                    for (head, scores) in scores.chunks_exact_mut(len(&rows) * width).take(t.heads).enumerate() {
                        for (i, (row, scores)) in rows.clone().zip(scores.chunks_exact_mut(width)).enumerate() {
                            let at = head * t.rows + i;
                            weigh(&mut scores[self.seen(row, &cols)], &mut tops[at], &mut sums[at]);
                        }
                    }
                }
            });
            sums.iter_mut().filter(|sum| **sum != 0.0).for_each(|sum| *sum = 1.0 / *sum);
        });
        stats
    }

    fn blocks(&self) -> usize {
        (self.c.qkv.queries as isize - self.first_row()) as usize / self.tiles.rows
            + usize::from(!((self.c.qkv.queries as isize - self.first_row()) as usize).is_multiple_of(self.tiles.rows))
    }

    /// The maximum of a row and the reciprocal of its sum.
    fn stat(&self, stats: &[f32], unit: usize, head: usize, row: isize) -> (f32, f32) {
        let t = &self.tiles;
        let at = (row - self.first_row()) as usize;
        let piece = &stats[(unit * self.blocks() + at / t.rows) * t.heads * t.rows * 2..][..t.heads * t.rows * 2];
        let at = head * t.rows + at % t.rows;
        (piece[at], piece[t.heads * t.rows + at])
    }

    /// Computes all of o.
    fn outputs(&self, stats: &[f32], o: &Output) {
        let (s, t) = (&self.c.qkv, &self.tiles);
        let blocks = s.queries.div_ceil(t.rows);
        each(s.batch * self.sets() * blocks, self.work(), |task| {
            // The last blocks of a causal head have the most work, so they are started first.
            let first = (blocks - 1 - task % blocks) * t.rows;
            self.block(stats, task / blocks, first..(first + t.rows).min(s.queries), o);
        });
    }

    fn block(&self, stats: &[f32], unit: usize, queries: Range<usize>, o: &Output) {
        let (s, t) = (&self.c.qkv, &self.tiles);
        let (batch, set) = (unit / self.sets(), unit % self.sets());
        let heads = set * t.heads..(set + 1) * t.heads;
        let (height, e) = (queries.len(), s.dim_v);
        let rows = queries.start as isize..queries.end as isize;
        let post = Taps::halo(self.c.kq_post);
        let all_cells = (height + post.0) * (t.keys + 2 * post.1);
        let [q, k, raw, unmixed] = self.space(height + post.0, t.keys + 2 * post.1);
        let weights = if self.c.post() { t.heads * height * t.keys } else { 0 };
        let mixed = if self.c.head_post.is_some() { weights } else { 0 };
        let running = t.heads * height;
        let v_space = t.keys.max(height) * e;
        let sizes = [q, k, raw, unmixed, t.heads * all_cells, weights, mixed, running, running, running * e, v_space];
        scratch(sizes, |[q, k, raw, unmixed, scores, weights, mixed, tops, sums, out, v_space]| {
            let mut space = Space { q, k, raw, unmixed };
            tops.fill(LOWEST);
            sums.fill(0.0);
            out.fill(0.0);
            for key in (0..self.c.keys_seen(rows.end - 1)).step_by(t.keys) {
                let cols = key as isize..(key + t.keys).min(s.keys) as isize;
                let cells = height * len(&cols);
                let (all_rows, all_cols) = wider(&rows, &cols, post);
                self.scores(batch, heads.clone(), &all_rows, &all_cols, &mut space, scores);
                let scores = &mut scores[..t.heads * len(&all_rows) * len(&all_cols)];
                let last = if self.c.post() {
                    self.normalise(stats, unit, (&all_rows, &all_cols), scores);
                    self.after(heads.clone(), (&rows, &cols), scores, weights, mixed)
                } else {
                    for (head, scores) in scores.chunks_exact_mut(cells).enumerate() {
                        for (i, (row, scores)) in rows.clone().zip(scores.chunks_exact_mut(len(&cols))).enumerate() {
                            let (at, seen) = (head * height + i, self.seen(row, &cols));
                            scores[seen.end..].fill(0.0);
                            let shrink = weigh(&mut scores[seen], &mut tops[at], &mut sums[at]);
                            if shrink != 1.0 {
                                simd::scale(&mut out[at * e..][..e], shrink);
                            }
                        }
                    }
                    scores
                };
                for (head, weights) in heads.clone().zip(last.chunks_exact(cells)) {
                    let v = self.v.tile(batch, head / s.group(), key..cols.end as usize, v_space);
                    let out = &mut out[(head - heads.start) * height * e..][..height * e];
                    product([height, len(&cols), e], Mat::rows(weights, len(&cols)), v, Onto::Sum, out, e);
                }
            }
            sums.iter_mut().for_each(|sum| *sum = if *sum == 0.0 { 1.0 } else { 1.0 / *sum });
            for (i, head) in heads.clone().enumerate() {
                let rows = &mut out[i * height * e..][..height * e];
                // SAFETY: blocks do not overlap, and each of them is processed once.
                unsafe { o.store(batch, head, queries.clone(), rows, &sums[i * height..][..height]) };
            }
        });
    }

    /// Turns scores into weights, 0 at keys that a row does not see.
    fn normalise(&self, stats: &[f32], unit: usize, (rows, cols): (&Span, &Span), scores: &mut [f32]) {
        let width = len(cols);
        for (head, scores) in scores.chunks_exact_mut(len(rows) * width).enumerate() {
            for (row, scores) in rows.clone().zip(scores.chunks_exact_mut(width)) {
                let seen = self.seen(row, cols);
                scores[..seen.start].fill(0.0);
                scores[seen.end..].fill(0.0);
                if !seen.is_empty() {
                    let (top, over) = self.stat(stats, unit, head, row);
                    exponentials(&mut scores[seen], top, over);
                }
            }
        }
    }

    /// Applies the stages after the softmax. The results are 0 at keys that a row does not see.
    fn after<'b>(
        &self,
        heads: Range<usize>,
        (rows, cols): (&Span, &Span),
        scores: &'b mut [f32],
        weights: &'b mut [f32],
        mixed: &'b mut [f32],
    ) -> &'b mut [f32] {
        let (width, cells) = (len(cols), len(rows) * len(cols));
        let convolved = match self.c.kq_post {
            None => scores,
            Some(taps) => {
                let all = scores.chunks_exact(scores.len() / heads.len());
                let weights = &mut weights[..heads.len() * cells];
                for ((head, all), to) in heads.clone().zip(all).zip(weights.chunks_exact_mut(cells)) {
                    convolve(to, all, of_head(&self.kq_post, taps, head), width, taps);
                    for (row, to) in rows.clone().zip(to.chunks_exact_mut(width)) {
                        to[self.seen(row, cols).end..].fill(0.0);
                    }
                }
                weights
            }
        };
        let Some(size) = self.c.head_post else { return convolved };
        let mixed = &mut mixed[..heads.len() * cells];
        let groups = convolved.chunks_exact(size * cells).zip(mixed.chunks_exact_mut(size * cells));
        for (group, (from, to)) in groups.enumerate() {
            let group = heads.start / size + group;
            let mix = Mat::rows(&self.head_post[group * size * size..][..size * size], size);
            product([size, size, cells], mix.t(), Mat::rows(from, cells), Onto::Nothing, to, cells);
        }
        mixed
    }
}

/// The convolution kernel of a head.
fn of_head(theta: &[f32], taps: Taps, head: usize) -> &[f32] {
    let count = taps.queries * taps.keys;
    &theta[head * count..][..count]
}

/// Columns whose sums stay in registers while all taps are added.
const STRIP: usize = 32;

/// `to[i,j] = sum_{t,b} theta[t,b] raw[i + t, j + b]`. Rows of `to` have `width` columns, rows of `raw` have `ck - 1`
/// more.
fn convolve(to: &mut [f32], raw: &[f32], theta: &[f32], width: usize, taps: Taps) {
    let raw_width = width + taps.keys - 1;
    for (i, to) in to.chunks_exact_mut(width).enumerate() {
        convolve_row(to, &raw[i * raw_width..], theta, raw_width, taps.keys);
    }
}

wide! {
    /// Computes one row of `convolve`. `raw` starts with the first row that it reads.
    fn convolve_row(to: &mut [f32], raw: &[f32], theta: &[f32], raw_width: usize, keys: usize) {
        let width = to.len();
        let mut first = 0;
        while first < width {
            if width >= STRIP {
                // The last strip is moved back to fit, so it computes some columns again.
                let at = first.min(width - STRIP);
                let mut sums = [0.0; STRIP];
                for (t, theta) in theta.chunks_exact(keys).enumerate() {
                    let row = &raw[t * raw_width + at..][..STRIP + keys - 1];
                    for (b, tap) in theta.iter().enumerate() {
                        let row: &[f32; STRIP] = row[b..].first_chunk().unwrap_or(&[0.0; STRIP]);
                        for l in 0..STRIP {
                            sums[l] += tap * row[l];
                        }
                    }
                }
                to[at..][..STRIP].copy_from_slice(&sums);
            } else {
                to.fill(0.0);
                for (t, theta) in theta.chunks_exact(keys).enumerate() {
                    for (b, tap) in theta.iter().enumerate() {
                        for (to, raw) in to.iter_mut().zip(&raw[t * raw_width + b..]) {
                            *to += tap * raw;
                        }
                    }
                }
            }
            first += STRIP;
        }
    }
}

/// Raises the maximum of a row, turns its scores into weights relative to it, and adds the weights to the sum. Returns
/// the factor by which earlier weights must be scaled.
fn weigh(scores: &mut [f32], top: &mut f32, sum: &mut f32) -> f32 {
    if scores.is_empty() {
        return 1.0;
    }
    let before = *top;
    *top = largest(scores, before);
    exponentials(scores, *top, 1.0);
    let shrink = exp_signed::<false>(before - *top);
    *sum = *sum * shrink + simd::sum(scores);
    shrink
}

wide! {
    /// The largest of all elements and `other`. NaN is skipped here, but makes the weights NaN later.
    fn largest(x: &[f32], other: f32) -> f32 {
        const LANES: usize = 16;
        let mut lanes = [other; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for l in 0..LANES {
                lanes[l] = if chunk[l] > lanes[l] { chunk[l] } else { lanes[l] };
            }
        }
        lanes.iter().chain(rest).fold(other, |top, x| if *x > top { *x } else { top })
    }
}

wide! {
    /// `x = e^(x - top) * over`.
    fn exponentials<FUSED>(x: &mut [f32], top: f32, over: f32) {
        for x in x {
            *x = exp_signed::<FUSED>(*x - top) * over;
        }
    }
}

/// Applies the norm and the gate, if the configuration has them.
fn finish(c: &Config, tensors: &TensorMap, o: HostTensor) -> HostTensor {
    if !c.norm && c.gate.is_none() {
        return o;
    }
    let read =
        |name: &str, given: bool| tensors.get(name).filter(|_| given).map(HostTensor::to_f32).unwrap_or_default();
    let mut norm = read("norm", c.norm);
    simd::scale(&mut norm, c.depth_factor() as f32);
    let weight = read("gate_weight", c.gate.is_some());
    let bias = read("gate_bias", c.gate.is_some_and(|gate| gate.bias));
    let e = c.qkv.dim_v;
    let gates = weight.len() / e;
    let (shape, mut values) = (o.shape().clone(), o.to_f32());
    drop(o);
    let work = (2 * FINISHED * e * (gates + 2)) as u64;
    // The last rows may not fill a piece; they are processed separately.
    let whole = values.len() / (FINISHED * e) * FINISHED * e;
    let (pieces, rest) = values.split_at_mut(whole);
    let piece = |_: usize, rows: &mut [f32]| {
        if c.norm {
            for row in rows.chunks_exact_mut(e) {
                let root = 1.0 / (simd::dot(row, row) / e as f32 + NORM_EPS).sqrt();
                simd::scale(row, root);
                simd::multiply(row, &norm);
            }
        }
        if let Some(gate) = c.gate {
            let count = rows.len() / e;
            scratch([count * gates], |[opened]| {
                product([count, e, gates], Mat::rows(rows, e), Mat::rows(&weight, e).t(), Onto::Nothing, opened, gates);
                for (row, opened) in rows.chunks_exact_mut(e).zip(opened.chunks_exact_mut(gates)) {
                    if gate.bias {
                        simd::add(opened, &bias);
                    }
                    channels::sigmoid(opened);
                    match gate.gates {
                        Gates::Scalar => simd::scale(row, opened[0]),
                        Gates::PerChannel => simd::multiply(row, opened),
                    }
                }
            });
        }
    };
    if !pieces.is_empty() {
        each_mut(pieces, FINISHED * e, work, piece);
    }
    piece(0, rest);
    HostTensor::f32(shape, values)
}
