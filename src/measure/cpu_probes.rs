//! Measures the limits of this machine with the code of the `cpu` backend: copy bandwidth, multiply-adds, exponentials.

use rayon::prelude::*;

use crate::cpu::matrix::{Mat, Onto, product};
use crate::cpu::simd::{exp, wide};

/// Bytes per copy of a thread.
const PIECE: usize = 1 << 20;

/// Copies on all threads.
pub(crate) fn copy(from: &[u8], to: &mut [u8]) {
    to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
}

/// Sizes m, k, n of the matrix product, chosen to fit in the cache of a core like the backend's tiles.
const SIDES: [usize; 3] = [256, 512, 256];

/// Calls `f` on all threads at once and returns the number of threads.
fn all_threads(f: impl Fn() + Sync) -> usize {
    let threads = rayon::current_num_threads();
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| f());
    threads
}

/// Independent sums per loop: enough to hide the latency of any processor.
const CHAINS: usize = 12;
const LANES: usize = 8;
/// Loop iterations per call.
const TURNS: usize = 100_000;

#[inline(always)]
fn chains(fused: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let (a, b) = std::hint::black_box((0.75, 0.25));
    let mut x = [[0.5f32; LANES]; CHAINS];
    for _ in 0..TURNS {
        for x in &mut x {
            for x in x {
                *x = fused(*x, a, b);
            }
        }
    }
    x.iter().flatten().sum()
}

fn multiply_adds() -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn fused() -> f32 {
            chains(f32::mul_add)
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: avx2 and fma were detected.
            return unsafe { fused() };
        }
        chains(|x, a, b| x * a + b)
    }
    #[cfg(not(target_arch = "x86_64"))]
    chains(f32::mul_add)
}

/// Runs multiply-adds in registers `times` times on each thread. Returns the flops.
pub(crate) fn multiply_add(times: usize) -> f64 {
    let threads = all_threads(|| {
        for _ in 0..times {
            std::hint::black_box(multiply_adds());
        }
    });
    2.0 * (threads * times * TURNS * CHAINS * LANES) as f64
}

/// Runs `times` matrix products in the cache on each thread, with the code that the backend uses. Returns the flops.
pub(crate) fn products(times: usize) -> f64 {
    let [m, k, n] = SIDES;
    let threads = all_threads(|| {
        let (a, b, mut c) = (vec![0.5; m * k], vec![0.25; k * n], vec![0.0; m * n]);
        for _ in 0..times {
            product(SIDES, Mat::rows(&a, k), Mat::rows(&b, n), Onto::Nothing, std::hint::black_box(&mut c), n);
        }
    });
    2.0 * (threads * times * m * k * n) as f64
}

wide! {
    fn exponentiate<FUSED>(x: &mut [f32]) {
        for x in x {
            *x = exp::<FUSED>(-*x);
        }
    }
}

/// Number of values, chosen to fit in the first-level cache.
const NUMBERS: usize = 4096;

/// Computes exponentials in the cache `times` times on each thread, with the code that the backend uses. Returns their
/// number.
pub(crate) fn exponentials(times: usize) -> f64 {
    let threads = all_threads(|| {
        let mut x = vec![0.5; NUMBERS];
        (0..times).for_each(|_| exponentiate(std::hint::black_box(&mut x)));
    });
    (threads * times * NUMBERS) as f64
}

/// Wakes all threads and waits for them. Measures the cost of an empty parallel call.
pub(crate) fn wake() {
    all_threads(|| std::hint::black_box(()));
}
