//! Random tensors, the same on every platform: ChaCha8 and a normal by Box and Muller over a pure-Rust libm.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Case, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::tensor::{DType, HostTensor, TensorMap};

/// `count` standard normal values. Streams of one seed are independent.
pub fn normal(seed: u64, stream: u64, count: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // 53 bits each, the first in (0, 1] so that its logarithm is finite.
        let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - unit(rng.next_u64())));
        let angle = 2.0 * std::f64::consts::PI * unit(rng.next_u64());
        values.push((radius * libm::cos(angle)) as f32);
        values.push((radius * libm::sin(angle)) as f32);
    }
    values.truncate(count);
    values
}

/// Inputs of a case: every required tensor and, when the case carries one, a state.
///
/// # Errors
/// [`Error::Usage`] if the case names an axis the operator does not have.
pub fn inputs(op: &Op, case: &Case) -> Result<TensorMap, Error> {
    let states = if case.carry { op.state } else { &[] };
    let wanted = op.inputs.iter().filter(|spec| !spec.optional).map(|spec| (spec, case.dtype));
    let wanted = wanted.chain(states.iter().map(|spec| (spec, DType::F32)));
    wanted
        .enumerate()
        .map(|(stream, (spec, dtype))| Ok((spec.name.to_owned(), draw(op, case, spec, stream as u64, dtype)?)))
        .collect()
}

fn draw(op: &Op, case: &Case, spec: &TensorSpec, stream: u64, dtype: DType) -> Result<HostTensor, Error> {
    let shape = case
        .shape(op, spec)
        .ok_or_else(|| Error::Usage(format!("{}: `{}` has an axis without a length", op.name, spec.name)))?;
    if shape.checked_count().is_none_or(|n| n > u64::from(u32::MAX)) {
        let what = format!("tensor `{}` (elements)", spec.name);
        let needed = shape.checked_count().unwrap_or(u64::MAX);
        return Err(Error::Limit { op: op.name.into(), what, needed, limit: u32::MAX.into() });
    }
    let mut values = normal(case.seed, stream, shape.count());
    if spec.draw == Draw::Positive {
        values.iter_mut().for_each(|x| *x = x.abs());
    }
    Ok(HostTensor::f32(shape, values).cast(dtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_on_every_platform() {
        let bits: Vec<u32> = normal(7, 3, 4).iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [1057438630, 1051888890, 3216219431, 1075417689], "files drawn by earlier versions change");
    }

    #[test]
    fn mean_and_variance_are_those_of_a_standard_normal() {
        let values = normal(1, 0, 100_000);
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / 1e5;
        let square = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (square - 1.0).abs() < 0.02, "{mean} {square}");
    }
}
