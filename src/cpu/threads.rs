//! Distributes work over several threads, and provides memory for it.

use std::cell::Cell;

use rayon::prelude::*;

use super::{memory, watch};

/// An empty vector with room for `count` elements, on large pages.
pub(super) fn reserve<T>(count: usize) -> Vec<T> {
    memory::claim::<T>(count);
    let values = Vec::<T>::with_capacity(count);
    on_large_pages(&values);
    values
}

/// A vector of `count` zeros, on large pages.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    memory::claim::<f32>(count);
    let values = vec![0.0; count];
    on_large_pages(&values);
    values
}

/// A copy of values on large pages, for weights that every token reads: a mapped file has small pages, whose addresses take
/// longer to look up than the values take to arrive (3.4 beside 12 GB/s on one thread of a virtual machine).
#[cfg(feature = "model")]
pub(crate) fn resident<T: Copy>(values: &[T]) -> Vec<T> {
    let mut copy = reserve(values.len());
    copy.extend_from_slice(values);
    copy
}

/// Asks for large pages if the system provides them on request. Every page causes a fault when it is first written.
/// If pages are small, these faults take a fifth of the time of a long sequence, and most of the time for a large memory
/// that is seldom written.
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
            // SAFETY: the range lies inside the reservation, and the advice changes no contents. The result is ignored,
            // because large pages are optional.
            unsafe { madvise(start as *mut _, end - start, MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = values;
}

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends slices of these lengths from memory that the thread keeps. They contain values of earlier uses.
pub(crate) fn scratch<const K: usize>(lengths: [usize; K], f: impl FnOnce([&mut [f32]; K])) {
    let mut memory = SCRATCH.take();
    let total = lengths.iter().sum();
    if memory.len() < total {
        memory::claim::<f32>(total);
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
pub(super) const SMALL: u64 = 4_000_000;

/// Calls `f` with every index, on all threads of the current pool if the total `work` in flops is large enough.
pub(crate) fn each(tasks: usize, work: u64, f: impl Fn(usize) + Sync + Send) {
    let watched = watch::Tasks::begin(tasks, work / tasks.max(1) as u64);
    let f = |task| watched.task(|| f(task));
    if tasks == 1 || work < SMALL {
        (0..tasks).for_each(f);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Calls `f` with every piece of `sizes[0]` values, the piece of `sizes[1]` others beside it, and their index. Uses threads as
/// [`each_mut`] does.
pub(crate) fn each_pair_mut(
    [values, others]: [&mut [f32]; 2],
    sizes: [usize; 2],
    work_each: u64,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let tasks = values.len() / sizes[0];
    let watched = watch::Tasks::begin(tasks, work_each);
    let f = |i, (piece, other): (&mut [f32], &mut [f32])| watched.task(|| f(i, piece, other));
    if tasks == 1 || work_each.saturating_mul(tasks as u64) < SMALL {
        let pairs = values.chunks_exact_mut(sizes[0]).zip(others.chunks_exact_mut(sizes[1]));
        pairs.enumerate().for_each(|(i, pair)| f(i, pair));
    } else {
        let pairs = values.par_chunks_exact_mut(sizes[0]).zip(others.par_chunks_exact_mut(sizes[1]));
        pairs.with_max_len(1).enumerate().for_each(|(i, pair)| f(i, pair));
    }
}

/// Calls `f` with every piece of `size` values and its index, on all threads of the current pool if the total work,
/// `work_each` flops per piece, is large enough.
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
