//! The input tensors of a run: read from files, completed to full rank, checked, and converted to the dtypes that the
//! operator needs.

use std::collections::BTreeMap;

use super::kv_cache;
use super::options::Options;
use super::report::{self, Ui};
use crate::catalog::absent_axes::AbsentAxes;
use crate::catalog::domain;
use crate::catalog::request::Request;
use crate::catalog::spec::{Op, Role, TensorSpec};
use crate::error::Error;
use crate::io;
use crate::operator::Operator;
use crate::tensor::{Access, DType, HostTensor, Layout, Shape, Slot, TensorMap};

/// Tensors of the input files, full rank, as stored.
pub(super) struct Inputs {
    op: &'static Op,
    /// The tensors that the operator knows by name.
    tensors: TensorMap,
    /// Their shapes.
    shapes: Vec<(String, Shape)>,
    /// Their names, then those of the other tensors in the files: the list in an error about a missing tensor.
    names: String,
    state: Option<State>,
    /// Names of the other tensors in the input file.
    unused: Option<String>,
    /// Leading axes that the sequence tensors lack.
    pub absent: AbsentAxes,
    /// How each tensor was read, in the order of the operator's tensors.
    pub read: Vec<ReadAs>,
}

/// How the shape of a tensor in a file was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ReadAs {
    pub name: &'static str,
    pub dtype: DType,
    /// The shape in the file.
    pub shape: Shape,
    /// Letter and length of every axis, those that the file lacks included; empty where the rank alone does not tell.
    pub axes: Vec<(&'static str, usize)>,
}

impl ReadAs {
    fn new(spec: &TensorSpec, layout: Layout, dtype: DType, shape: Shape, full: &Shape) -> Self {
        let mut letters = spec.letters(layout);
        if full.rank() == letters.len() + 1
            && let Some((_, letter)) = spec.optional_axis
        {
            letters.push(letter);
        }
        let axes = if full.rank() == letters.len() {
            // An axis `1|H` has one length for all heads, or one per head.
            let letter = |letter: &'static str| letter.strip_prefix("1|").unwrap_or(letter);
            letters.into_iter().map(letter).zip(full.dims().iter().copied()).collect()
        } else {
            Vec::new()
        };
        Self { name: spec.name, dtype, shape, axes }
    }

    /// `f32 [1, 2, 1024, 64] as H=2 N=1024 D=64`. A batch of 1 goes without saying.
    pub(super) fn text(&self) -> String {
        let shown = self.axes.iter().filter(|axis| **axis != ("B", 1));
        let axes: Vec<_> = shown.map(|(letter, length)| format!("{letter}={length}")).collect();
        let axes = if axes.is_empty() { String::new() } else { format!(" as {}", axes.join(" ")) };
        format!("{} {}{axes}", self.dtype, self.shape)
    }
}

/// The state file.
struct State {
    /// The parts that the operator knows by name.
    tensors: TensorMap,
    /// Names of everything in the file.
    names: String,
}

impl Inputs {
    /// Reads the tensors that the operator knows by name. The others are not read: they may be large, or of a dtype that
    /// cannot be read.
    pub(super) fn read(op: &'static Op, options: &Options, ui: &mut Ui) -> Result<Self, Error> {
        let of = |specs: &[TensorSpec], name: &str| specs.iter().any(|spec| spec.name == name);
        let mut input = io::read_only(&options.input, &|name| of(op.inputs, name))?;
        note_layout(&input.metadata, options, ui);
        let lacking = |name: &str| of(op.inputs, name) && input.tensors.get(name).is_none();
        let mut params = match &options.params {
            Some(path) => io::read_only(path, &lacking)?,
            None => io::TensorFile::default(),
        };
        let mut state = match &options.state_in {
            Some(path) => Some(State::of(io::read_only(path, &|name| of(op.state, name))?)),
            None => None,
        };

        let mut found = Vec::new();
        for spec in op.inputs {
            if let Some(tensor) = input.tensors.remove(spec.name).or_else(|| params.tensors.remove(spec.name)) {
                found.push((spec, tensor));
            }
        }
        let own = found.iter().map(|(spec, _)| spec.name);
        let weights = names(&params.others).filter(|name| !of(op.inputs, name));
        let all = report::names(own.chain(names(&input.others)).chain(weights));
        let unused = (!input.others.is_empty()).then(|| report::names(names(&input.others)));

        let shape = |name: &str| found.iter().find(|(spec, _)| spec.name == name).map(|(_, tensor)| tensor.shape());
        let absent = AbsentAxes::of(op, options.layout, shape)?;
        let mut tensors = TensorMap::new();
        let (mut shapes, mut read) = (Vec::new(), Vec::new());
        for (spec, tensor) in found {
            if tensor.dtype() == DType::I64 {
                return Err(Error::tensor(op.name, spec.name, "f32, f16, bf16 or f64", "whole numbers"));
            }
            warn_non_finite(op, spec.name, &tensor, "", options.strict, ui)?;
            domain::check(op, spec, &tensor)?.into_iter().for_each(|text| ui.warn(text));
            let full = absent.complete(op, spec, options.layout, tensor.shape())?;
            read.push(ReadAs::new(spec, options.layout, tensor.dtype(), tensor.shape().clone(), &full));
            let mut tensor = tensor.reshape(full);
            if let Some(cache) = kv_cache::of(op, spec.name).filter(|_| options.carry()) {
                if let Some(lead) = op.inputs.first().and_then(|lead| tensors.get(lead.name)) {
                    kv_cache::check(op, cache, &tensor, lead, options.layout)?;
                }
                if let Some(State { tensors: state, names }) = &mut state {
                    let Some(before) = state.remove(spec.name) else {
                        let expected = format!("{} in the state file", cache.forms(Layout::Bhnd));
                        let (tensor, given) = (spec.name.into(), names.clone());
                        return Err(Error::Missing { op: op.name, tensor, expected, given });
                    };
                    warn_non_finite(op, spec.name, &before, "", options.strict, ui)?;
                    tensor = kv_cache::extend(op, cache, &before, &tensor, options.layout)?;
                }
            }
            shapes.push((spec.name.to_owned(), tensor.shape().clone()));
            tensors.insert(spec.name, tensor);
        }
        Ok(Self { op, tensors, shapes, names: all, state, unused, absent, read })
    }

    /// Prints the names of the tensors in the input that the operator does not read.
    pub(super) fn note_unused(&self, ui: &Ui) {
        if let Some(names) = &self.unused {
            ui.note(&format!("not used: {names} (tensors of the input that {} does not read)", self.op.name));
        }
    }

    /// The operator for these shapes and this storage.
    pub(super) fn configure(&self, options: &Options, dtype: DType) -> Result<Box<dyn Operator>, Error> {
        let layout = options.layout;
        let request = Request { flags: &options.flags, shapes: &self.shapes, layout, dtype, carry: options.carry() };
        self.op.configure(&request).map_err(|error| match error {
            Error::Missing { op, tensor, expected, .. } => {
                Error::Missing { op, tensor, expected, given: self.names.clone() }
            }
            other => other,
        })
    }

    /// The storage type to run with, and a line to print if it differs from that of the input.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if f16 was asked for where it is missing.
    pub(super) fn storage(
        &self,
        asked: Option<DType>,
        f16: bool,
        place: &str,
    ) -> Result<(DType, Option<String>), Error> {
        if asked == Some(DType::F16) && !f16 {
            return Err(Error::NoAdapter(format!(
                "{}: --dtype f16 needs an adapter with f16 (SHADER_F16), and {place} lacks it; the cpu backend has it",
                self.op.name
            )));
        }
        if let Some(dtype) = asked {
            return Ok((dtype, None));
        }
        let (mut half, mut single) = (Vec::new(), Vec::new());
        for spec in self.op.inputs.iter().filter(|spec| spec.role == Role::Sequence) {
            match self.tensors.get(spec.name).map(HostTensor::dtype) {
                Some(DType::F16) => half.push(spec.name),
                Some(_) => single.push(spec.name),
                None => {}
            }
        }
        Ok(if half.is_empty() {
            (DType::F32, None)
        } else if !single.is_empty() {
            let (half, single) = (half.join(", "), single.join(", "));
            (DType::F32, Some(format!("stored as f32: {half} are f16, but {single} are not")))
        } else if f16 {
            (DType::F16, None)
        } else {
            (DType::F32, Some(format!("stored as f32: the input is f16, but {place} has no f16")))
        })
    }

    /// Every tensor that the operator reads, in the dtype that it needs.
    pub(super) fn into_tensors(
        self,
        operator: &dyn Operator,
        options: &Options,
        ui: &mut Ui,
    ) -> Result<TensorMap, Error> {
        let Self { op, mut tensors, state, .. } = self;
        let slots = operator.slots();
        let mut converted = TensorMap::new();
        for (_, part) in parts(&slots, Access::Read) {
            let Some(tensor) = tensors.remove(part.name) else { continue };
            if tensor.shape() != &part.shape {
                return Err(Error::tensor(op.name, part.name, part.shape.to_string(), tensor.shape().to_string()));
            }
            converted.insert(part.name, stored(op, part.name, tensor, part.dtype, options.strict, ui)?);
        }
        let Some(State { tensors: mut state, names }) = state else { return Ok(converted) };
        for (_, part) in parts(&slots, Access::Update) {
            let Some(tensor) = state.remove(part.name) else {
                return Err(Error::Missing {
                    op: op.name,
                    tensor: part.name.into(),
                    expected: format!("{} in the state file", part.shape),
                    given: names,
                });
            };
            let whole = (part.dtype == DType::I64, tensor.dtype() == DType::I64);
            if tensor.shape() != &part.shape || whole.0 != whole.1 {
                let expected = format!("{} {} in the state file", part.dtype, part.shape);
                let found = format!("{} {}", tensor.dtype(), tensor.shape());
                return Err(Error::tensor(op.name, part.name, expected, found));
            }
            warn_non_finite(op, part.name, &tensor, "", options.strict, ui)?;
            converted.insert(part.name, stored(op, part.name, tensor, part.dtype, options.strict, ui)?);
        }
        Ok(converted)
    }
}

impl State {
    fn of(file: io::TensorFile) -> Self {
        let own = file.tensors.iter().map(|(name, _)| name);
        Self { names: report::names(own.chain(names(&file.others))), tensors: file.tensors }
    }
}

fn names(entries: &[io::Entry]) -> impl Iterator<Item = &str> {
    entries.iter().map(|entry| entry.name.as_str())
}

/// The parts of the slots with this access.
pub(super) fn parts(slots: &[Slot], access: Access) -> impl Iterator<Item = (&Slot, &crate::tensor::Part)> {
    let slots = slots.iter().filter(move |slot| slot.access == access);
    slots.flat_map(|slot| slot.parts.iter().map(move |part| (slot, part)))
}

/// The output of that name, if the operator has one.
pub(super) fn output<'a>(op: &'a Op, name: &str) -> Option<&'a TensorSpec> {
    op.outputs.iter().find(|spec| spec.name == name)
}

fn stored(
    op: &Op,
    name: &str,
    tensor: HostTensor,
    dtype: DType,
    strict: bool,
    ui: &mut Ui,
) -> Result<HostTensor, Error> {
    if tensor.dtype() == dtype {
        return Ok(tensor);
    }
    let cast = tensor.cast(dtype);
    // Values beyond 65504 become infinite in f16. Values that were not finite before are reported already.
    if cast.non_finite() > tensor.non_finite() {
        warn_non_finite(op, name, &cast, " once stored as f16", strict, ui)?;
    }
    Ok(cast)
}

fn warn_non_finite(
    op: &Op,
    name: &str,
    tensor: &HostTensor,
    when: &str,
    strict: bool,
    ui: &mut Ui,
) -> Result<(), Error> {
    let spec = op.inputs.iter().chain(op.state).find(|spec| spec.name == name);
    let count = spec.map_or_else(|| tensor.non_finite(), |spec| domain::meaningless(spec, tensor));
    if count == 0 {
        return Ok(());
    }
    let total = tensor.shape().count();
    if strict {
        let found = format!("{count} of {total} that are not{when}");
        return Err(Error::tensor(op.name, name, "finite values (--strict)", found));
    }
    ui.warn(format!("{}: tensor `{name}`: {count} of {total} values are not finite{when}", op.name));
    Ok(())
}

/// Warns if the file says it has the other layout, as files that `sample` and `run` wrote do.
fn note_layout(metadata: &BTreeMap<String, String>, options: &Options, ui: &mut Ui) {
    if let Some(written) = metadata.get("layout")
        && matches!(written.as_str(), "bhnd" | "bnhd")
        && written != options.layout.name()
    {
        ui.warn(format!("the input says that its layout is {written}, but it is read as {}", options.layout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear;

    #[test]
    fn shapes_are_said_by_axis() {
        let read = |spec: &TensorSpec, shape: &[usize], full: &[usize]| {
            ReadAs::new(spec, Layout::Bhnd, DType::F32, shape.into(), &full.into()).text()
        };
        let specs = linear::OP.inputs;
        assert_eq!(read(&specs[0], &[2, 9, 4], &[1, 2, 9, 4]), "f32 [2, 9, 4] as H=2 N=9 D=4");
        assert_eq!(read(&specs[0], &[3, 2, 9, 4], &[3, 2, 9, 4]), "f32 [3, 2, 9, 4] as B=3 H=2 N=9 D=4");
        let bnhd = ReadAs::new(&specs[0], Layout::Bnhd, DType::F16, [1, 9, 2, 4].into(), &[1, 9, 2, 4].into());
        assert_eq!(bnhd.text(), "f16 [1, 9, 2, 4] as N=9 H=2 D=4");
        let g = specs.iter().find(|spec| spec.name == "g").unwrap();
        assert_eq!(read(g, &[2, 9], &[1, 2, 9]), "f32 [2, 9] as G=2 N=9");
        assert_eq!(read(g, &[2, 9, 4], &[1, 2, 9, 4]), "f32 [2, 9, 4] as G=2 N=9 D=4");
    }

    #[test]
    fn f16_is_kept_where_it_can_be_and_refused_where_it_was_asked_for() {
        let given = |dtype| Inputs {
            op: &linear::OP,
            tensors: ["q", "k", "v"].map(|name| (name.to_owned(), HostTensor::zeros([1], dtype))).into_iter().collect(),
            shapes: Vec::new(),
            names: String::new(),
            state: None,
            unused: None,
            absent: AbsentAxes::default(),
            read: Vec::new(),
        };
        let (half, single) = (given(DType::F16), given(DType::F32));
        assert_eq!(half.storage(None, true, "here"), Ok((DType::F16, None)));
        let line = "stored as f32: the input is f16, but here has no f16";
        assert_eq!(half.storage(None, false, "here"), Ok((DType::F32, Some(line.into()))));
        assert_eq!(half.storage(Some(DType::F32), false, "here"), Ok((DType::F32, None)));
        assert_eq!(single.storage(None, true, "here"), Ok((DType::F32, None)));
        assert_eq!(single.storage(Some(DType::F16), true, "here"), Ok((DType::F16, None)));
        assert!(matches!(single.storage(Some(DType::F16), false, "here"), Err(Error::NoAdapter(_))));
    }
}
