//! Operators by name on arrays.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use subquad::catalog::case::Case;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::request::Request;
use subquad::catalog::spec::Op;
use subquad::catalog::summaries::{DECAY, Settings, State, Summary};
use subquad::measure::roofline::Roofline;
use subquad::measure::{Budget, Place, Subject};
use subquad::ops;
use subquad::tensor::Access;
use subquad::{DType, Error, HostTensor, Layout, TensorMap};

use crate::arrays;
use crate::device::Device;

/// The Python exception of an error, with its sentence, in which flags are keywords.
pub(crate) fn raised(error: Error) -> PyErr {
    let word = |word: &str| match word.strip_prefix("--") {
        Some(flag) if flag.starts_with(|c: char| c.is_ascii_lowercase()) => flag.replace('-', "_"),
        _ => word.to_owned(),
    };
    let text = error.to_string().split(' ').map(word).collect::<Vec<_>>().join(" ");
    match error {
        Error::NoAdapter(_) | Error::Device(_) | Error::Kernel { .. } => PyRuntimeError::new_err(text),
        Error::File { .. } => PyOSError::new_err(text),
        _ => PyValueError::new_err(text),
    }
}

/// Runs work without the interpreter's lock. A panic, which is a fault of this library, becomes an exception that ordinary code
/// catches.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T, Error> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(result) => result.map_err(raised),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(PyRuntimeError::new_err(format!("subquad failed, which is a fault of subquad: {said}")))
        }
    }
}

fn found(op: &str) -> Result<&'static Op, Error> {
    ops::find(op).ok_or_else(|| {
        let names: Vec<_> = ops::all().map(|op| op.name).collect();
        Error::Usage(format!("operator: expected one of {}, found `{op}`", names.join(", ")))
    })
}

fn layout_of(op: &Op, name: &str) -> Result<Layout, Error> {
    let [bhnd, bnhd] = op.layouts();
    match name {
        "bhnd" | "bcn" => Ok(Layout::Bhnd),
        "bnhd" | "bnc" => Ok(Layout::Bnhd),
        _ => Err(Error::Usage(format!("{}: layout: expected {bhnd} or {bnhd}, found `{name}`", op.name))),
    }
}

fn flags_of(given: Vec<(String, String)>) -> Flags {
    let mut flags = Flags::new();
    given.into_iter().for_each(|(name, value)| flags.set(&name, value));
    flags
}

/// What a run returns: arrays by name, the algorithm, where it ran.
type Returned<'py> = (Bound<'py, PyDict>, String, String);

/// Runs an operator of the table. Sequence tensors have full rank in the order of `layout`; all are contiguous arrays. Parameters
/// that are absent are drawn from the seed. Returns outputs and states by name, the algorithm, and where it ran. With `summary`,
/// `decay` is among the states: what the run does to any state that enters it. With `in_place`, a state that is contiguous and of
/// float32 may be written where it is, and is not returned then.
#[pyfunction]
#[pyo3(signature = (op, tensors, flags, *, layout, carry, seed, device, summary, in_place))]
pub(crate) fn run<'py>(
    py: Python<'py>,
    op: &str,
    tensors: &Bound<'py, PyDict>,
    flags: Vec<(String, String)>,
    layout: &str,
    carry: bool,
    seed: u64,
    device: &str,
    summary: bool,
    in_place: bool,
) -> PyResult<Returned<'py>> {
    let op = found(op).map_err(raised)?;
    let layout = layout_of(op, layout).map_err(raised)?;
    let mut given = Vec::new();
    for (name, array) in tensors.iter() {
        let name: String = name.extract()?;
        let lent = if in_place && is_state(op, &name) { arrays::lent(&array) } else { None };
        given.push((name.clone(), lent.map_or_else(|| arrays::tensor(&name, &array), Ok)?));
    }
    arrays::check_apart(op.name, &given).map_err(raised)?;
    let (done, ran) = detached(py, || {
        let device = Device::open(device)?;
        let flags = flags_of(flags);
        let how = How { flags: &flags, layout, carry: carry || summary, seed, summary };
        Ok((execute(op, &how, given, &device)?, device.name()))
    })?;
    let (written, variant) = done;
    let outputs = PyDict::new(py);
    for (name, tensor) in written {
        if !arrays::is_lent(&tensor) {
            outputs.set_item(name, arrays::array(py, tensor)?)?;
        }
    }
    Ok((outputs, variant, ran))
}

/// The settings of a run.
struct How<'a> {
    flags: &'a Flags,
    layout: Layout,
    carry: bool,
    seed: u64,
    summary: bool,
}

/// Returns what the run writes, and the algorithm.
fn execute(
    op: &'static Op,
    how: &How<'_>,
    given: Vec<(String, HostTensor)>,
    device: &Device,
) -> Result<(TensorMap, String), Error> {
    let How { flags, layout, carry, seed, summary } = *how;
    let known = |name: &str| op.inputs.iter().any(|spec| spec.names().any(|own| own == name)) || is_state(op, name);
    if let Some((name, tensor)) = given.iter().find(|(name, _)| !known(name)) {
        let found = format!("{} {}", tensor.dtype().name(), tensor.shape());
        return Err(Error::tensor(op.name, name.as_str(), "no tensor of that name", found));
    }
    let shapes: Vec<_> = given.iter().map(|(name, tensor)| (name.clone(), tensor.shape().clone())).collect();
    let asked = stored(op, &given)?;
    let dtype = if device.f16() { asked } else { DType::F32 };
    op.check_words(flags)?;
    let operator = (op.configure)(&Request { flags, shapes: &shapes, layout, dtype, carry })?;
    let slots = operator.slots();
    let mut inputs = TensorMap::new();
    for (name, tensor) in given {
        let read = slots.iter().filter(|slot| slot.access != Access::Write).flat_map(|slot| &slot.parts);
        match read.into_iter().find(|part| part.name == name) {
            Some(part) if part.dtype == tensor.dtype() => inputs.insert(name, tensor),
            Some(part) => inputs.insert(name, tensor.cast(part.dtype)),
            None => {
                let found = format!("{} {}", tensor.dtype().name(), tensor.shape());
                return Err(Error::tensor(op.name, name, "no such tensor with these settings", found));
            }
        }
    }
    for (name, tensor) in random::parameters(op, flags, &*operator, &inputs, seed)?.into_iter() {
        inputs.insert(name, tensor);
    }
    operator.check_memory(matches!(device, Device::Cpu))?;
    if summary {
        operator.check_summary()?;
    }
    let read = summary.then(|| inputs.clone());
    let (mut written, variant) = device.execute(&*operator, inputs)?;
    if let Some(inputs) = read {
        written.insert(DECAY.name, operator.log_decay(&inputs)?);
    }
    if asked != dtype {
        let cast = |(name, tensor): (String, HostTensor)| {
            let back = op.outputs.iter().any(|spec| spec.name == name) && tensor.dtype() == dtype;
            (name, if back { tensor.cast(asked) } else { tensor })
        };
        written = written.into_iter().map(cast).collect();
    }
    Ok((written, variant))
}

fn is_state(op: &Op, name: &str) -> bool {
    op.state.iter().any(|spec| spec.name == name)
}

/// The storage type of sequence tensors: f16 if all of them have it, otherwise f32. Mixtures are refused.
fn stored(op: &Op, given: &[(String, HostTensor)]) -> Result<DType, Error> {
    let along = given
        .iter()
        .filter(|(name, _)| op.inputs.iter().any(|spec| spec.follows_layout && spec.names().any(|own| own == name)));
    let mut first: Option<(&str, DType)> = None;
    for (name, tensor) in along.filter(|(_, tensor)| tensor.dtype().is_float()) {
        match first {
            None => first = Some((name, tensor.dtype())),
            Some((_, dtype)) if dtype == tensor.dtype() => {}
            Some((other, dtype)) => {
                let expected = format!("{} as `{other}` has", dtype.name());
                return Err(Error::tensor(op.name, name.as_str(), expected, tensor.dtype().name().to_owned()));
            }
        }
    }
    Ok(first.map_or(DType::F32, |(_, dtype)| dtype))
}

/// The states before each piece of a sequence and after the last, from the summaries of the pieces in order. `state` is the one
/// before the first, if it is not empty.
#[pyfunction]
pub(crate) fn merge<'py>(
    py: Python<'py>,
    op: &str,
    settings: Vec<(String, String)>,
    summaries: Vec<Bound<'py, PyDict>>,
    state: Option<Bound<'py, PyDict>>,
) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let op = found(op).map_err(raised)?;
    let wrong = |sentence: String| PyValueError::new_err(format!("{}: {sentence}", op.name));
    let folding = op.summaries.ok_or_else(|| wrong("has no summaries".into()))?;
    let fold = folding(&Settings(&settings)).map_err(wrong)?;
    let read = |dict: &Bound<'py, PyDict>| -> PyResult<TensorMap> {
        let one = |(name, array): (Bound<'py, PyAny>, Bound<'py, PyAny>)| {
            let name: String = name.extract()?;
            let tensor = arrays::tensor(&name, &array)?;
            Ok((name, tensor))
        };
        dict.iter().map(one).collect()
    };
    let given = |tensors: TensorMap| {
        let dict = PyDict::new(py);
        tensors.into_iter().try_for_each(|(name, tensor)| dict.set_item(name, arrays::array(py, tensor)?))?;
        PyResult::Ok(dict)
    };
    let mut state = match state {
        Some(state) => Some(State::read(fold.tensors(), &read(&state)?, None).map_err(wrong)?),
        None => None,
    };
    let mut states = vec![given(state.as_ref().map(State::to_tensors).unwrap_or_default())?];
    for summary in &summaries {
        let like = state.as_ref().map(|state| (state, "the piece before"));
        let mut piece = Summary::read(fold.tensors(), &read(summary)?, like).map_err(wrong)?;
        match &mut state {
            None => state = Some(piece.own),
            Some(state) => fold.fold(state, &mut piece).map_err(wrong)?,
        }
        states.push(given(state.as_ref().map(State::to_tensors).unwrap_or_default())?);
    }
    Ok(states)
}

/// Times an operator on inputs drawn from a seed, after its output was compared with the reference. Returns seconds and what they
/// compare with.
#[pyfunction]
#[pyo3(signature = (op, axes, flags, *, dtype, layout, device, repeats, seconds))]
pub(crate) fn bench<'py>(
    py: Python<'py>,
    op: &str,
    axes: Vec<(String, usize)>,
    flags: Vec<(String, String)>,
    dtype: &str,
    layout: &str,
    device: &str,
    repeats: usize,
    seconds: f64,
) -> PyResult<Bound<'py, PyDict>> {
    let op = found(op).map_err(raised)?;
    let layout = layout_of(op, layout).map_err(raised)?;
    let dtype = arrays::dtype(dtype)?;
    let (measured, floor, copy, bound, name) = detached(py, || {
        let device = Device::open(device)?;
        let mut lengths = Vec::new();
        for (letter, length) in &axes {
            let Some((own, _)) = op.axes.iter().find(|(own, _)| own == letter) else {
                let known: Vec<_> = op.axes.iter().map(|(own, _)| *own).collect();
                let text = format!("{}: axis: expected one of {}, found `{letter}`", op.name, known.join(", "));
                return Err(Error::Usage(text));
            };
            lengths.push((*own, *length));
        }
        let mut case = Case::new("bench", &lengths).layout(layout).dtype(dtype);
        for (flag, value) in &flags {
            case = case.flag(flag, value);
        }
        case.complete(op);
        let place = match &device {
            Device::Cpu => Place::Cpu,
            Device::Gpu(context) => Place::Gpu(context),
        };
        let stop = AtomicBool::new(false);
        let effort = Budget { repeat: repeats, seconds, stop: &stop };
        let mut roofline = Roofline::measure(&place, &effort)?;
        let subject = Subject::new(op, case)?;
        let cost = subject.operator.cost();
        let (floor, bound) = roofline.floor(&cost);
        let copy = roofline.copy_time(&place, cost.bytes() as u64, &effort)?;
        let overhead = roofline.overhead;
        Ok((subject.measure(&place, &overhead, &effort)?, floor, copy, bound.name(), device.name()))
    })?;
    let Some(timed) = measured.kernel else {
        return Err(PyRuntimeError::new_err(format!("{}: the output is wrong: {:?}", op.name, measured.verdict)));
    };
    let dict = PyDict::new(py);
    dict.set_item("operator", op.name)?;
    dict.set_item("device", name)?;
    dict.set_item("variant", measured.variant)?;
    dict.set_item("seconds", timed.time.median)?;
    dict.set_item("least_seconds", timed.time.min)?;
    dict.set_item("floor_seconds", floor)?;
    dict.set_item("floor_by", bound)?;
    dict.set_item("copy_seconds", copy)?;
    dict.set_item("error", measured.verdict.error)?;
    Ok(dict)
}
