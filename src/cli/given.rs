//! The tensors a run was given: read, completed to full rank, checked, and brought to the dtypes its operator wants.

use std::collections::BTreeMap;

use super::cached;
use super::options::Options;
use super::report::{self, Ui};
use crate::error::Error;
use crate::io;
use crate::ops::rank::Absent;
use crate::ops::{Op, Operator, Request, Role, TensorSpec, values};
use crate::tensor::{Access, DType, HostTensor, Layout, Shape, Slot, TensorMap};

/// Tensors of the input files, full rank, as stored.
pub struct Given {
    op: &'static Op,
    /// Those the row knows.
    tensors: TensorMap,
    /// Shapes of these.
    shapes: Vec<(String, Shape)>,
    /// Names of these, then of whatever else the files hold: what a missing tensor is reported with.
    given: String,
    state: Option<State>,
    /// Names of what else the input holds.
    unused: Option<String>,
    /// Leading axes the sequence tensors lack.
    pub absent: Absent,
}

/// The state file.
struct State {
    /// Parts the row knows.
    tensors: TensorMap,
    /// Names of all it holds.
    given: String,
}

impl Given {
    /// Reads from the files what the row knows by name. What else they hold may be large, or of a dtype that cannot be
    /// read.
    pub fn read(op: &'static Op, options: &Options, ui: &mut Ui) -> Result<Self, Error> {
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
        let given = report::names(own.chain(names(&input.others)).chain(weights));
        let unused = (!input.others.is_empty()).then(|| report::names(names(&input.others)));

        let shape = |name: &str| found.iter().find(|(spec, _)| spec.name == name).map(|(_, tensor)| tensor.shape());
        let absent = Absent::of(op, options.layout, shape)?;
        let mut tensors = TensorMap::new();
        let mut shapes = Vec::new();
        for (spec, tensor) in found {
            if tensor.dtype() == DType::I64 {
                return Err(Error::tensor(op.name, spec.name, "f32, f16, bf16 or f64", "whole numbers"));
            }
            warn_non_finite(op, spec.name, &tensor, "", options.strict, ui)?;
            values::check(op, spec, &tensor)?.into_iter().for_each(|text| ui.warn(text));
            let full = absent.complete(op, spec, options.layout, tensor.shape())?;
            let mut tensor = tensor.reshape(full);
            if let Some(cache) = cached::of(op, spec.name).filter(|_| options.carry()) {
                if let Some(lead) = op.inputs.first().and_then(|lead| tensors.get(lead.name)) {
                    cached::check(op, cache, &tensor, lead, options.layout)?;
                }
                if let Some(State { tensors: state, given }) = &mut state {
                    let Some(before) = state.remove(spec.name) else {
                        let expected = format!("{} in the state file", cache.forms(Layout::Bhnd));
                        let (tensor, given) = (spec.name.into(), given.clone());
                        return Err(Error::Missing { op: op.name, tensor, expected, given });
                    };
                    warn_non_finite(op, spec.name, &before, "", options.strict, ui)?;
                    tensor = cached::extend(op, cache, &before, &tensor, options.layout)?;
                }
            }
            shapes.push((spec.name.to_owned(), tensor.shape().clone()));
            tensors.insert(spec.name, tensor);
        }
        Ok(Self { op, tensors, shapes, given, state, unused, absent })
    }

    /// Names the tensors of the input that the operator does not read.
    pub fn note_unused(&self, ui: &Ui) {
        if let Some(names) = &self.unused {
            ui.note(&format!("not used: {names} (tensors of the input that {} does not read)", self.op.name));
        }
    }

    /// The operator for these shapes and this storage.
    pub fn configure(&self, options: &Options, dtype: DType) -> Result<Box<dyn Operator>, Error> {
        let layout = options.layout;
        let request = Request { flags: &options.flags, shapes: &self.shapes, layout, dtype, carry: options.carry() };
        (self.op.configure)(&request).map_err(|error| match error {
            Error::Missing { op, tensor, expected, .. } => {
                Error::Missing { op, tensor, expected, given: self.given.clone() }
            }
            other => other,
        })
    }

    /// The storage to run with, and a line to say if it is not that of the input.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if f16 was asked for where it is missing.
    pub fn storage(&self, asked: Option<DType>, f16: bool, place: &str) -> Result<(DType, Option<String>), Error> {
        if asked == Some(DType::F16) && !f16 {
            return Err(Error::NoAdapter(format!(
                "{}: --dtype f16: expected an adapter with f16 (SHADER_F16), found {place} without it; \
                 the cpu backend has it",
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

    /// Every tensor the operator reads, at the dtype it wants.
    pub fn bring(self, operator: &dyn Operator, options: &Options, ui: &mut Ui) -> Result<TensorMap, Error> {
        let Self { op, mut tensors, state, .. } = self;
        let slots = operator.slots();
        let mut brought = TensorMap::new();
        for (_, part) in parts(&slots, Access::Read) {
            let Some(tensor) = tensors.remove(part.name) else { continue };
            if tensor.shape() != &part.shape {
                return Err(Error::tensor(op.name, part.name, part.shape.to_string(), tensor.shape().to_string()));
            }
            brought.insert(part.name, stored(op, part.name, tensor, part.dtype, options.strict, ui)?);
        }
        let Some(State { tensors: mut state, given }) = state else { return Ok(brought) };
        for (_, part) in parts(&slots, Access::Update) {
            let Some(tensor) = state.remove(part.name) else {
                return Err(Error::Missing {
                    op: op.name,
                    tensor: part.name.into(),
                    expected: format!("{} in the state file", part.shape),
                    given,
                });
            };
            let whole = (part.dtype == DType::I64, tensor.dtype() == DType::I64);
            if tensor.shape() != &part.shape || whole.0 != whole.1 {
                let expected = format!("{} {} in the state file", part.dtype, part.shape);
                let found = format!("{} {}", tensor.dtype(), tensor.shape());
                return Err(Error::tensor(op.name, part.name, expected, found));
            }
            warn_non_finite(op, part.name, &tensor, "", options.strict, ui)?;
            brought.insert(part.name, stored(op, part.name, tensor, part.dtype, options.strict, ui)?);
        }
        Ok(brought)
    }
}

impl State {
    fn of(file: io::TensorFile) -> Self {
        let own = file.tensors.iter().map(|(name, _)| name);
        Self { given: report::names(own.chain(names(&file.others))), tensors: file.tensors }
    }
}

fn names(entries: &[io::Entry]) -> impl Iterator<Item = &str> {
    entries.iter().map(|entry| entry.name.as_str())
}

/// Parts of the slots used that way.
pub fn parts(slots: &[Slot], access: Access) -> impl Iterator<Item = (&Slot, &crate::tensor::Part)> {
    let slots = slots.iter().filter(move |slot| slot.access == access);
    slots.flat_map(|slot| slot.parts.iter().map(move |part| (slot, part)))
}

/// The row's description of an output, if that is what the name is.
pub fn output<'a>(op: &'a Op, name: &str) -> Option<&'a TensorSpec> {
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
    // Values beyond 65504 become infinite as f16. Those that were not finite before have been reported already.
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
    let count = spec.map_or_else(|| tensor.non_finite(), |spec| values::meaningless(spec, tensor));
    if count == 0 {
        return Ok(());
    }
    let found = format!("{count} of {} that are not{when}", tensor.shape().count());
    if strict {
        return Err(Error::tensor(op.name, name, "finite values (--strict)", found));
    }
    ui.warn(format!("{}: tensor `{name}`: expected finite values, found {found}", op.name));
    Ok(())
}

/// Files that `sample` and `run` wrote say which layout they have.
fn note_layout(metadata: &BTreeMap<String, String>, options: &Options, ui: &mut Ui) {
    if let Some(written) = metadata.get("layout")
        && matches!(written.as_str(), "bhnd" | "bnhd")
        && written != options.layout.name()
    {
        ui.warn(format!("the input says it has layout {written}, but it is read as {}", options.layout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear;

    #[test]
    fn f16_is_kept_where_it_can_be_and_refused_where_it_was_asked_for() {
        let given = |dtype| Given {
            op: &linear::OP,
            tensors: ["q", "k", "v"].map(|name| (name.to_owned(), HostTensor::zeros([1], dtype))).into_iter().collect(),
            shapes: Vec::new(),
            given: String::new(),
            state: None,
            unused: None,
            absent: Absent::default(),
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
