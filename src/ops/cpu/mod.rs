//! What the `cpu` backends of the operators share: matrix products, tiles of rows in and out of tensors, features, and
//! the scan over segments of a sequence.
//!
//! Everything is f32 and its bits depend on the shape alone, never on the number of threads: sums have a fixed order,
//! and threads only decide who computes which segment.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::tensor::{DType, HostTensor, Layout, Strides, Values};

/// A matrix inside a slice: element (i, j) is at `i * row + j * col`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> Mat<'a> {
    /// Rows of contiguous elements, `row` apart.
    pub(crate) fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, col: 1 }
    }

    /// Transposed.
    pub(crate) fn t(self) -> Self {
        Self { row: self.col, col: self.row, ..self }
    }

    /// Without its first columns.
    pub(crate) fn skip_cols(self, cols: usize) -> Self {
        Self { data: &self.data[cols * self.col..], ..self }
    }

    /// Row `i`, `len` elements; only of a matrix that is not transposed.
    pub(crate) fn row(self, i: usize, len: usize) -> &'a [f32] {
        debug_assert_eq!(self.col, 1);
        &self.data[i * self.row..][..len]
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// What a product does with what its target held.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Onto {
    /// Overwrites it.
    Nothing,
    /// Adds to it.
    Sum,
}

/// `c = a b` or `c += a b`, where a is `[m, k]`, b is `[k, n]`, and c has rows of n contiguous elements, `c_row` apart.
pub(crate) fn product([m, k, n]: [usize; 3], a: Mat<'_>, b: Mat<'_>, onto: Onto, c: &mut [f32], c_row: usize) {
    assert!(a.holds(m, k) && b.holds(k, n) && Mat::rows(c, c_row).holds(m, n), "a product past the end of a matrix");
    assert!(c_row >= n, "rows of a product that overlap");
    let beta = if onto == Onto::Sum { 1.0 } else { 0.0 };
    let stride = |s: usize| s as isize;
    // SAFETY: all elements lie inside the slices and those of c are distinct, by the two asserts; c is borrowed mutably,
    // so nothing else sees it.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.data.as_ptr(),
            stride(a.row),
            stride(a.col),
            b.data.as_ptr(),
            stride(b.row),
            stride(b.col),
            beta,
            c.as_mut_ptr(),
            stride(c_row),
            1,
        );
    }
}

/// Compiles a loop over floats twice on x86-64, for the baseline (SSE2) and for AVX2, and takes the wider one where the
/// machine has it. No fused multiply-add, so both give the same bits.
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the machine has AVX2.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use wide;

pub(crate) mod attend;
pub(crate) mod channels;
pub(crate) mod decay;
#[cfg(feature = "cli")]
pub(crate) mod probes;
pub(crate) mod recurrence;
pub mod watch;

wide! {
    /// `elu(x) + 1` of every element.
    pub(crate) fn elu1(x: &mut [f32]) {
        for x in x {
            *x = if *x > 0.0 { *x + 1.0 } else { exp(*x) };
        }
    }
}

wide! {
    /// `max(x, 0)` of every element. A NaN becomes 0, as in the definition.
    pub(crate) fn relu(x: &mut [f32]) {
        for x in x {
            *x = if *x > 0.0 { *x } else { 0.0 };
        }
    }
}

/// `e^x` for `x <= 0`, within 1 ulp, without branches so that a loop over it becomes vector code, which one over
/// `f32::exp` does not. Below the normal numbers it is 0. NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.336_54;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts; the product with the first, which has nine bits, is exact.
    let r = (x - n * (355.0 / 512.0)) + n * 2.121_944_4e-4;
    // Coefficients of Cephes' expf.
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let y = (p * (r * r) + r + 1.0) * power;
    if x < LOWEST { 0.0 } else { y }
}

/// `e^x` of any x, as [`exp`]. Above 88.3, short of the largest number, it is infinite.
#[inline(always)]
pub(crate) fn exp_signed(x: f32) -> f32 {
    // Beyond this the power of two next to x is none of f32's.
    const HIGHEST: f32 = 88.3;
    let y = exp(if x > HIGHEST { HIGHEST } else { x });
    if x > HIGHEST { f32::INFINITY } else { y }
}

/// Independent partial sums in reductions, which the compiler may not reorder by itself.
const LANES: usize = 16;

wide! {
    /// Sum of all elements, in a fixed order.
    pub(crate) fn sum(x: &[f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest: f32 = chunks.remainder().iter().sum();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += chunk[i];
            }
        }
        lanes.iter().sum::<f32>() + rest
    }
}

wide! {
    /// Inner product, in a fixed order.
    pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
        let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
        for (x, y) in xs.zip(ys) {
            for i in 0..LANES {
                lanes[i] += x[i] * y[i];
            }
        }
        lanes.iter().sum::<f32>() + rest
    }
}

wide! {
    /// `x *= factor`.
    pub(crate) fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

wide! {
    /// `x *= y`, element by element.
    pub(crate) fn multiply(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x *= y;
        }
    }
}

wide! {
    /// `x += y`.
    pub(crate) fn add(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

wide! {
    /// `x += y * factor`.
    pub(crate) fn add_scaled(x: &mut [f32], y: &[f32], factor: f32) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y * factor;
        }
    }
}

wide! {
    /// `z = x + y`.
    pub(crate) fn add_into(z: &mut [f32], x: &[f32], y: &[f32]) {
        for ((z, x), y) in z.iter_mut().zip(x).zip(y) {
            *z = x + y;
        }
    }
}

/// A map applied to the rows of a tensor as they are loaded; `None` is the identity.
pub(crate) type Map = Option<fn(&mut [f32])>;

/// A tensor along the sequence, read by tiles: some tokens of one head.
pub(crate) struct Source<'a> {
    values: &'a Values,
    strides: Strides,
    dim: usize,
    map: Map,
}

impl<'a> Source<'a> {
    /// `tensor` is full rank, its axes in the order of `layout`; f32 or f16. Without a last axis a row is one element.
    pub(crate) fn new(tensor: &'a HostTensor, layout: Layout, map: Map) -> Self {
        let dims = tensor.shape().dims();
        let (heads, len) = match layout {
            Layout::Bhnd => (dims[1], dims[2]),
            Layout::Bnhd => (dims[2], dims[1]),
        };
        let dim = dims.get(3).copied().unwrap_or(1);
        Self { values: tensor.values(), strides: layout.strides(heads, len, dim), dim, map }
    }

    /// Rows of these tokens as f32, mapped. f32 without a map is read where it lies; anything else goes through `space`,
    /// which has room for the tile.
    pub(crate) fn tile<'b>(&'b self, batch: usize, head: usize, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b> {
        let Strides { batch: b, head: h, token } = self.strides;
        let start = batch * b + head * h + tokens.start * token;
        let span = start..start + (tokens.len() - 1) * token + self.dim;
        let space = &mut space[..tokens.len() * self.dim];
        match self.values {
            Values::F32(x) if self.map.is_none() => return Mat::rows(&x[span], token),
            Values::F32(x) => {
                for (to, from) in space.chunks_exact_mut(self.dim).zip(x[span].chunks(token)) {
                    to.copy_from_slice(&from[..self.dim]);
                }
            }
            Values::F16(x) => {
                for (to, from) in space.chunks_exact_mut(self.dim).zip(x[span].chunks(token)) {
                    from[..self.dim].convert_to_f32_slice(to);
                }
            }
            Values::I64(_) | Values::U32(_) => unreachable!("sequence tensors are f32 or f16"),
        }
        if let Some(map) = self.map {
            map(space);
        }
        Mat::rows(space, self.dim)
    }
}

/// An output along the sequence, written by tiles from several threads. Its memory is not cleared first: that would cost
/// as much as writing it.
pub(crate) struct Output {
    values: Values,
    pointer: Pointer,
    batch: usize,
    heads: usize,
    len: usize,
    dim: usize,
    layout: Layout,
    written: AtomicUsize,
}

#[derive(Clone, Copy)]
enum Pointer {
    F32(*mut f32),
    F16(*mut f16),
}

// SAFETY: the pointers are only written through, by `Output::store`, whose callers keep to different rows; `values` is
// not touched until `Output::finish`, which takes the whole.
unsafe impl Sync for Output {}

impl Output {
    /// Room for `[batch, heads, len, dim]` in the order of `layout`.
    pub(crate) fn new(dtype: DType, layout: Layout, [batch, heads, len, dim]: [usize; 4]) -> Self {
        let count = batch * heads * len * dim;
        let (values, pointer) = match dtype {
            DType::F32 => {
                let mut v = reserve(count);
                let pointer = Pointer::F32(v.as_mut_ptr());
                (Values::F32(v), pointer)
            }
            DType::F16 => {
                let mut v = reserve(count);
                let pointer = Pointer::F16(v.as_mut_ptr());
                (Values::F16(v), pointer)
            }
            DType::I64 | DType::U32 => unreachable!("sequence tensors are f32 or f16"),
        };
        Self { values, pointer, batch, heads, len, dim, layout, written: AtomicUsize::new(0) }
    }

    /// Writes the rows of these tokens, each multiplied by its factor.
    ///
    /// # Safety
    /// Every row is stored once.
    pub(crate) unsafe fn store(
        &self,
        batch: usize,
        head: usize,
        tokens: Range<usize>,
        rows: &mut [f32],
        factors: &[f32],
    ) {
        // SAFETY: that of this function.
        unsafe { self.store_columns(batch, head, tokens, 0..self.dim, rows, factors) };
    }

    /// Writes some columns of the rows of these tokens, each multiplied by its factor.
    ///
    /// # Safety
    /// Every element is stored once.
    pub(crate) unsafe fn store_columns(
        &self,
        batch: usize,
        head: usize,
        tokens: Range<usize>,
        columns: Range<usize>,
        rows: &mut [f32],
        factors: &[f32],
    ) {
        assert!(batch < self.batch && head < self.heads && tokens.end <= self.len && columns.end <= self.dim);
        let strides = self.layout.strides(self.heads, self.len, self.dim);
        let start = batch * strides.batch + head * strides.head + columns.start;
        let width = columns.len();
        let rows = rows[..tokens.len() * width].chunks_exact_mut(width);
        for ((token, row), &factor) in tokens.clone().zip(rows).zip(&factors[..tokens.len()]) {
            scale(row, factor);
            let at = start + token * strides.token;
            // SAFETY: `at..at + width` lies inside by the assert, and no other thread has it by this function's contract.
            unsafe {
                match self.pointer {
                    Pointer::F32(p) => p.add(at).copy_from_nonoverlapping(row.as_ptr(), width),
                    Pointer::F16(p) => {
                        // Memory nobody has written may not be a slice yet.
                        p.add(at).write_bytes(0, width);
                        std::slice::from_raw_parts_mut(p.add(at), width).convert_from_f32_slice(row);
                    }
                }
            }
        }
        self.written.fetch_add(tokens.len() * width, Ordering::Relaxed);
    }

    /// The tensor, all rows of which have been stored.
    pub(crate) fn finish(self) -> HostTensor {
        let Self { mut values, batch, heads, len, dim, layout, written, .. } = self;
        let rows = batch * heads * len;
        assert_eq!(written.into_inner(), rows * dim, "elements of an output that were not stored");
        // SAFETY: the memory was reserved for so many elements, and as many were stored as there are, each once.
        unsafe {
            match &mut values {
                Values::F32(v) => v.set_len(rows * dim),
                Values::F16(v) => v.set_len(rows * dim),
                Values::I64(_) | Values::U32(_) => {}
            }
        }
        HostTensor::new(layout.shape(batch, heads, len, dim), values)
    }
}

/// An empty vector with room for so many elements, on large pages.
fn reserve<T>(count: usize) -> Vec<T> {
    let values = Vec::<T>::with_capacity(count);
    on_large_pages(&values);
    values
}

/// So many zeros, on large pages.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    let values = vec![0.0; count];
    on_large_pages(&values);
    values
}

/// Asks for large pages where the system has them on request: a page costs a fault when it is first written, and with small
/// ones that is a fifth of the time of a long sequence, or most of that of a large memory seldom written.
fn on_large_pages<T>(values: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        const MADV_HUGEPAGE: std::ffi::c_int = 14;
        unsafe extern "C" {
            fn madvise(start: *mut std::ffi::c_void, len: usize, advice: std::ffi::c_int) -> std::ffi::c_int;
        }
        let start = (values.as_ptr() as usize).next_multiple_of(HUGE);
        let end = (values.as_ptr() as usize + values.capacity() * size_of::<T>()) / HUGE * HUGE;
        if start < end {
            // SAFETY: the range lies inside the reservation, and the advice changes no contents. It is only a wish, so
            // what comes back does not matter.
            unsafe { madvise(start as *mut _, end - start, MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = values;
}

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends slices of these lengths from memory that the thread keeps. What they hold is left over from before.
pub(crate) fn scratch<const K: usize>(lengths: [usize; K], f: impl FnOnce([&mut [f32]; K])) {
    let mut memory = SCRATCH.take();
    let total = lengths.iter().sum();
    if memory.len() < total {
        memory.resize(total, 0.0);
    }
    let mut rest = &mut memory[..];
    f(lengths.map(|length| {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(length);
        rest = tail;
        head
    }));
    SCRATCH.set(memory);
}

/// Flops below which waking another thread costs more than it saves.
const SMALL: u64 = 4_000_000;

/// Calls `f` with every index, on all threads of the current pool if the `work` in flops is worth it.
pub(crate) fn each(tasks: usize, work: u64, f: impl Fn(usize) + Sync + Send) {
    let watched = watch::Tasks::begin(tasks, work / tasks.max(1) as u64);
    let f = |task| watched.task(|| f(task));
    if tasks == 1 || work < SMALL {
        (0..tasks).for_each(f);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Calls `f` with every piece of `size` values and its index, on all threads of the current pool if the work, so many
/// flops a piece, is worth it.
pub(crate) fn each_mut(values: &mut [f32], size: usize, work_each: u64, f: impl Fn(usize, &mut [f32]) + Sync) {
    let tasks = values.len() / size;
    let watched = watch::Tasks::begin(tasks, work_each);
    let f = |i, piece: &mut [f32]| watched.task(|| f(i, piece));
    if tasks == 1 || work_each.saturating_mul(tasks as u64) < SMALL {
        values.chunks_exact_mut(size).enumerate().for_each(|(i, piece)| f(i, piece));
    } else {
        values.par_chunks_exact_mut(size).with_max_len(1).enumerate().for_each(|(i, piece)| f(i, piece));
    }
}

/// A recurrence over a sequence in segments of fixed length, for several units (batch x head) with a state each.
///
/// The state at the start of a segment is the initial state and the sums of all segments before, folded in one by one from
/// the left, each computed from zero. So bits do not depend on who computes what: `run` either lets every unit run
/// through, or computes sums of segments first, on as many threads as there are segments, at the price of doing that
/// part of the work twice.
pub(crate) struct Scan {
    /// Independent recurrences.
    pub(crate) units: usize,
    /// Segments of each.
    pub(crate) segments: usize,
    /// Floats of one state.
    pub(crate) state: usize,
    /// Flops to sum a segment.
    pub(crate) sum_work: u64,
    /// Flops to walk a segment: its outputs and its sum.
    pub(crate) walk_work: u64,
}

impl Scan {
    /// Walks all segments. `states` holds the initial state of every unit and ends as the last. `sum(unit, segment, out)`
    /// writes the sum of a segment; `fold(state, sum)` folds it into the state before; `walk(unit, segment, state)` is given
    /// that state and does both.
    pub(crate) fn run(
        &self,
        states: &mut [f32],
        sum: impl Fn(usize, usize, &mut [f32]) + Sync,
        fold: impl Fn(&mut [f32], &[f32]),
        walk: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        if self.one_pass(self.threads(self.walk_work)) {
            each_mut(states, self.state, self.segments as u64 * self.walk_work, |unit, state| {
                (0..self.segments).for_each(|segment| walk(unit, segment, state));
            });
        } else {
            self.sums(states, sum, fold, |first, count, starts| {
                each_mut(starts, self.state, self.walk_work, |i, state| walk(i / count, first + i % count, state));
            });
        }
    }

    /// Folds the sums of all segments into `states`, from the left, some segments at a time. After each such wave,
    /// `after(first, count, starts)` is given the states before those segments, `count` for every unit.
    pub(crate) fn sums(
        &self,
        states: &mut [f32],
        sum: impl Fn(usize, usize, &mut [f32]) + Sync,
        fold: impl Fn(&mut [f32], &[f32]),
        mut after: impl FnMut(usize, usize, &mut [f32]),
    ) {
        // Waves bound the memory for the states of long sequences, and what the second pass reads is still in the cache.
        let wave = (8 * self.threads(self.sum_work)).div_ceil(self.units).min(self.segments);
        let mut memory = vec![0.0; self.units * wave * self.state];
        let mut before = vec![0.0; self.state];
        for first in (0..self.segments).step_by(wave) {
            let count = wave.min(self.segments - first);
            let starts = &mut memory[..self.units * count * self.state];
            each_mut(starts, self.state, self.sum_work, |i, out| sum(i / count, first + i % count, out));
            for (state, starts) in states.chunks_exact_mut(self.state).zip(starts.chunks_exact_mut(count * self.state))
            {
                for start in starts.chunks_exact_mut(self.state) {
                    before.copy_from_slice(state);
                    fold(state, start);
                    start.copy_from_slice(&before);
                }
            }
            after(first, count, starts);
        }
    }

    fn threads(&self, segment_work: u64) -> usize {
        let work = segment_work.saturating_mul((self.units * self.segments) as u64);
        if work < SMALL { 1 } else { rayon::current_num_threads() }
    }

    /// Whether units alone keep the threads as busy as units times segments would, given that the latter sums twice.
    fn one_pass(&self, threads: usize) -> bool {
        let once = (self.units.div_ceil(threads) * self.segments) as u64 * self.walk_work;
        let twice = (self.units * self.segments).div_ceil(threads) as u64 * (self.walk_work + self.sum_work);
        once <= twice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_right_to_the_last_place() {
        for i in 0..4_000_000u32 {
            let x = 88.3 - (i as f32) * (175.6 / 4e6);
            let (got, want) = (f64::from(exp_signed(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 1.2e-7, "e^{x}: {got}, expected {want}");
        }
        let ends = [0.0, f32::NEG_INFINITY, -3e38, -88.0, 89.0, f32::INFINITY].map(exp_signed);
        assert_eq!(ends, [1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY]);
        assert!(exp_signed(f32::NAN).is_nan());
    }
}
