//! What this machine can do at most with the means of the `cpu` backend: move bytes, multiply and add, exponentiate.

use rayon::prelude::*;

use super::{Mat, Onto, exp, product};

/// Bytes that a thread copies at a time.
const PIECE: usize = 1 << 20;

/// Copies on all threads.
pub(crate) fn copy(from: &[u8], to: &mut [u8]) {
    to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
}

/// Sides of the matrices: what a tile and its products keep in the cache of a core.
const SIDES: [usize; 3] = [256, 512, 256];

/// Calls `f` on every thread at once; returns how many there are.
fn all_threads(f: impl Fn() + Sync) -> usize {
    let threads = rayon::current_num_threads();
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| f());
    threads
}

/// Independent sums of a loop: enough for the latency of any processor.
const CHAINS: usize = 12;
const LANES: usize = 8;
/// Turns of the loop at a time.
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
            // SAFETY: the machine has both.
            return unsafe { fused() };
        }
        chains(|x, a, b| x * a + b)
    }
    #[cfg(not(target_arch = "x86_64"))]
    chains(f32::mul_add)
}

/// Multiply-adds in registers, so many times over on each thread. Returns flops.
pub(crate) fn multiply_add(times: usize) -> f64 {
    let threads = all_threads(|| {
        for _ in 0..times {
            std::hint::black_box(multiply_adds());
        }
    });
    2.0 * (threads * times * TURNS * CHAINS * LANES) as f64
}

/// Matrix products in the cache, so many on each thread, by what all products of this backend are made with. Returns
/// flops.
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
    fn exponentiate(x: &mut [f32]) {
        for x in x {
            *x = exp(-*x);
        }
    }
}

/// Numbers that stay in the nearest cache.
const NUMBERS: usize = 4096;

/// Exponentials in the cache, so many times over on each thread, by what all exponentials of this backend are made with.
/// Returns their number.
pub(crate) fn exponentials(times: usize) -> f64 {
    let threads = all_threads(|| {
        let mut x = vec![0.5; NUMBERS];
        (0..times).for_each(|_| exponentiate(std::hint::black_box(&mut x)));
    });
    (threads * times * NUMBERS) as f64
}

/// Wakes every thread and waits for all, for nothing.
pub(crate) fn wake() {
    all_threads(|| std::hint::black_box(()));
}
