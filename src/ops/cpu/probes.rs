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

/// Matrix products in the cache, so many on each thread, by what all products of this backend are made with. Returns
/// flops.
pub(crate) fn multiply_add(times: usize) -> f64 {
    let [m, k, n] = SIDES;
    let threads = rayon::current_num_threads();
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
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
    let threads = rayon::current_num_threads();
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
        let mut x = vec![0.5; NUMBERS];
        (0..times).for_each(|_| exponentiate(std::hint::black_box(&mut x)));
    });
    (threads * times * NUMBERS) as f64
}

/// Wakes every thread and waits for all, for nothing.
pub(crate) fn wake() {
    (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).for_each(|_| {
        std::hint::black_box(());
    });
}
