//! Random tensors, identical on every platform: ChaCha8, and normal values by the Box-Muller method with a pure-Rust
//! libm.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::catalog::case::Case;
use crate::catalog::domain::Domain;
use crate::catalog::flags::Flags;
use crate::catalog::spec::{Draw, Op, Role, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::tensor::{Access, DType, HostTensor, Shape, TensorMap, Values};

/// Returns `count` standard normal values. Different streams of the same seed are independent.
pub fn normal(seed: u64, stream: u64, count: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // Each uniform value has 53 bits. The first is taken as 1 - u, which is in (0, 1], so that its logarithm is
        // finite.
        let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - unit(rng.next_u64())));
        let angle = 2.0 * std::f64::consts::PI * unit(rng.next_u64());
        values.push((radius * libm::cos(angle)) as f32);
        values.push((radius * libm::sin(angle)) as f32);
    }
    values.truncate(count);
    values
}

/// Draws the tensors that this case is given, the same that an input file would contain. Their shapes follow from the
/// axis lengths of the case.
///
/// # Errors
/// [`Error::Usage`] if an axis of a tensor has no length, [`Error::Limit`] if a tensor is too large.
pub fn given(op: &Op, case: &Case) -> Result<TensorMap, Error> {
    let one = |spec: &TensorSpec| {
        let shape = case
            .shape(op, spec)
            .ok_or_else(|| Error::Usage(format!("{}: `{}` has an axis without a length", op.name, spec.name)))?;
        let length = |axis: &str| case.axis(op, axis).unwrap_or(0);
        let whole = |draw: fn(u64, u64, Shape, usize) -> HostTensor, last: usize| {
            Ok((spec.name.to_owned(), draw(case.seed, stream(op, spec), shape.clone(), last)))
        };
        match distribution(spec, &case.flags) {
            Draw::Borders(axis) => return whole(borders, length(axis)),
            Draw::Lengths(axis) => return whole(lengths, length(axis)),
            Draw::Below(axis) => return whole(indices, length(axis)),
            Draw::BelowCount(end) => return whole(indices, end),
            Draw::Normal | Draw::Positive | Draw::Shaped(_) | Draw::ByFlags(_) => {}
        }
        if spec.domain == Domain::Mask {
            return Ok((spec.name.to_owned(), draw(op, spec, &case.flags, shape, case.seed)?.cast(DType::U8)));
        }
        let dtype = if spec.role == Role::Sequence && !spec.single { case.dtype } else { DType::F32 };
        Ok((spec.name.to_owned(), draw(op, spec, &case.flags, shape, case.seed)?.cast(dtype)))
    };
    case.given(op).map(one).collect()
}

/// Draws everything that the operator of a case reads: the given tensors, the parameters that are not given, and the
/// state if the case carries one.
///
/// # Errors
/// The errors of [`given`] and of the operator.
pub fn inputs(op: &Op, case: &Case) -> Result<TensorMap, Error> {
    let operator = case.configure(op)?;
    let slots = operator.slots();
    let stored = |name: &str| slots.iter().flat_map(|slot| &slot.parts).find(|part| part.name == name);
    let as_stored = |(name, tensor): (String, HostTensor)| {
        let tensor = stored(&name).map_or_else(|| tensor.clone(), |part| tensor.cast(part.dtype));
        (name, tensor)
    };
    let mut tensors: TensorMap = given(op, case)?.into_iter().map(as_stored).collect();
    let drawn = parameters(op, &case.flags, operator.as_ref(), &tensors, case.seed)?;
    drawn.into_iter().for_each(|(name, tensor)| tensors.insert(name, tensor));
    for part in slots.iter().filter(|slot| slot.access == Access::Update).flat_map(|slot| &slot.parts) {
        if let Some(spec) = op.state.iter().find(|spec| spec.name == part.name) {
            tensors.insert(part.name, draw(op, spec, &case.flags, part.shape.clone(), case.seed)?.cast(part.dtype));
        }
    }
    Ok(tensors)
}

/// Draws from the seed the parameters that the operator reads and `tensors` lacks. A tensor that the row requires is
/// not a parameter.
///
/// # Errors
/// [`Error::Limit`] if a tensor is too large.
pub fn parameters(
    op: &Op,
    flags: &Flags,
    operator: &dyn Operator,
    tensors: &TensorMap,
    seed: u64,
) -> Result<TensorMap, Error> {
    let mut drawn = TensorMap::new();
    for slot in operator.slots().iter().filter(|slot| slot.access == Access::Read) {
        for part in slot.parts.iter().filter(|part| tensors.get(part.name).is_none()) {
            if let Some(spec) = op.inputs.iter().find(|spec| spec.name == part.name && spec.optional) {
                drawn.insert(part.name, draw(op, spec, flags, part.shape.clone(), seed)?.cast(part.dtype));
            }
        }
    }
    Ok(drawn)
}

/// Draws a tensor from the distribution of its row. Each tensor has its own random stream, so that its values do not
/// depend on which other tensors are drawn.
fn draw(op: &Op, spec: &TensorSpec, flags: &Flags, shape: Shape, seed: u64) -> Result<HostTensor, Error> {
    if shape.checked_count().is_none_or(|n| n > u64::from(u32::MAX)) {
        let what = format!("tensor `{}` (elements)", spec.name);
        let needed = shape.checked_count().unwrap_or(u64::MAX);
        return Err(Error::Limit { op: op.name.into(), what, needed, limit: u32::MAX.into() });
    }
    let mut values = normal(seed, stream(op, spec), shape.count());
    match distribution(spec, flags) {
        Draw::Normal
        | Draw::Borders(_)
        | Draw::Lengths(_)
        | Draw::Below(_)
        | Draw::BelowCount(_)
        | Draw::ByFlags(_) => {}
        Draw::Positive => values.iter_mut().for_each(|x| *x = x.abs()),
        Draw::Shaped(change) => change(&shape, &mut values),
    }
    Ok(HostTensor::f32(shape, values))
}

/// The distribution of a tensor under these flags.
fn distribution(spec: &TensorSpec, flags: &Flags) -> Draw {
    match spec.draw {
        Draw::ByFlags(choose) => choose(flags),
        fixed => fixed,
    }
}

/// The random stream of a tensor: its place in the row.
fn stream(op: &Op, spec: &TensorSpec) -> u64 {
    op.inputs.iter().chain(op.state).position(|other| other.name == spec.name).unwrap_or(0) as u64
}

/// Random whole numbers from 0 to `last`.
fn whole(seed: u64, stream: u64, count: usize, last: usize) -> Vec<i64> {
    let within = |x: f32| ((libm::tanh(f64::from(x)) + 1.0) / 2.0 * last as f64) as i64;
    normal(seed, stream, count).into_iter().map(within).collect()
}

/// Random whole numbers below `end`.
fn indices(seed: u64, stream: u64, shape: Shape, end: usize) -> HostTensor {
    let mut values = whole(seed, stream, shape.count(), end);
    // The largest of the normal values may round to the end.
    values.iter_mut().for_each(|value| *value = (*value).min(end as i64 - 1));
    HostTensor::new(shape, Values::I64(values))
}

/// Lengths up to `last`. The first one is `last`, so that nothing that depends on a length is always hidden.
fn lengths(seed: u64, stream: u64, shape: Shape, last: usize) -> HostTensor {
    let mut values = whole(seed, stream, shape.count(), last);
    values.iter_mut().take(1).for_each(|first| *first = last as i64);
    HostTensor::new(shape, Values::I64(values))
}

/// Whole numbers from 0 to `last` in ascending order, the first 0 and the last one `last`, for sequences of random lengths.
fn borders(seed: u64, stream: u64, shape: Shape, last: usize) -> HostTensor {
    let mut values = whole(seed, stream, shape.count(), last);
    values.sort_unstable();
    if let [first, .., end] = &mut values[..] {
        (*first, *end) = (0, last as i64);
    }
    HostTensor::new(shape, Values::I64(values))
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
