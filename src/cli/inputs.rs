//! The input tensors of a run: read from files once their headers are accepted, completed to full rank, checked, and
//! converted to the dtypes that the operator needs.

use std::collections::BTreeMap;

use super::finite;
use super::headers::{Files, Found, Headers, ReadAs};
use super::kv_cache;
use super::options::Options;
use super::report::Ui;
use crate::catalog::absent_axes::AbsentAxes;
use crate::catalog::domain::{self, Domain};
use crate::catalog::spec::{Op, Role, TensorSpec};
use crate::error::Error;
use crate::io::Opened;
use crate::operator::Operator;
use crate::tensor::{Access, DType, HostTensor, TensorMap};

pub(super) use super::headers::parts;

/// Tensors of the input files, full rank, as stored.
pub(super) struct Inputs {
    op: &'static Op,
    headers: Headers,
    /// The tensors that the operator knows by name.
    tensors: TensorMap,
    /// The tensors of the state file that the operator knows by name.
    state: Option<TensorMap>,
    /// The metadata of the state file.
    pub made: Option<BTreeMap<String, String>>,
    /// How the shapes of sequence tensors differ from full ones.
    pub absent: AbsentAxes,
    /// How each tensor was read, in the order of the operator's tensors.
    pub read: Vec<ReadAs>,
}

impl Inputs {
    /// Reads the tensors that the operator knows by name, once their headers show that it takes them. The others are not
    /// read: they may be large, or of a dtype that cannot be read.
    pub(super) fn read(op: &'static Op, options: &Options, ui: &mut Ui) -> Result<Self, Error> {
        let files = Files::open(options)?;
        let headers = Headers::of(op, options, &files, ui)?;
        // The shapes do not depend on the storage type, which is known only when an adapter is open.
        let operator = headers.configure(options, options.dtype.unwrap_or(DType::F32))?;
        headers.check(&*operator)?;
        let slots = operator.slots();

        let wanted = |in_params: bool| {
            let found = headers.found.iter().filter(move |found| found.in_params == in_params);
            found.map(|found| found.name.as_str()).collect::<Vec<_>>()
        };
        let load = |file: Opened, names: &[&str]| Ok(file.load(&|name| names.contains(&name))?.tensors);
        let mut input = load(files.input, &wanted(false))?;
        let mut params = files.params.map_or_else(|| Ok(TensorMap::new()), |file| load(file, &wanted(true)))?;
        let known: Vec<_> = op.state.iter().map(|spec| spec.name).collect();
        let made = files.state.as_ref().map(|file| file.listing().metadata.clone());
        let mut state = files.state.map(|file| load(file, &known)).transpose()?;

        let mut tensors = TensorMap::new();
        for (at, Found { spec, name, in_params, full }) in headers.found.iter().enumerate() {
            let file = if *in_params { &mut params } else { &mut input };
            // Two of the operator's tensors may be one in the file (--map).
            let again = headers.found.iter().skip(at + 1).any(|later| later.name == *name);
            let Some(tensor) = (if again { file.get(name).cloned() } else { file.remove(name) }) else { continue };
            warn_non_finite(op, spec.name, &tensor, "", options.strict, ui)?;
            domain::check(op, spec, &tensor)?.into_iter().for_each(|text| ui.warn(text));
            let mut tensor = tensor.reshape(full.clone());
            if let Some(cache) = kv_cache::of(op, spec.name).filter(|_| options.carry())
                && let Some(before) = state.as_mut().and_then(|state| state.remove(spec.name))
            {
                warn_non_finite(op, cache.name, &before, "", options.strict, ui)?;
                tensor = kv_cache::extend(&before, &tensor, options.layout);
            }
            let part = parts(&slots, Access::Read).map(|(_, part)| part).find(|part| part.name == spec.name);
            if let Some(used) = part.and_then(|part| headers.cut(part, tensor.shape())) {
                let axis = tensor.shape().rank() - 1;
                let length = tensor.shape().dims()[axis];
                ui.note(&format!(
                    "{}: the first {used} of {length} columns are used, as many as k has tokens",
                    spec.name
                ));
                tensor = tensor.select(axis, &(0..used).collect::<Vec<_>>());
            }
            tensors.insert(spec.name, tensor);
        }
        Ok(Self { op, tensors, state, made, absent: headers.absent, read: headers.read.clone(), headers })
    }

    /// Prints the names of the tensors in the input that the operator does not read.
    pub(super) fn note_unused(&self, ui: &Ui) {
        self.headers.note_unused(ui);
    }

    /// The operator for these shapes and this storage.
    pub(super) fn configure(&self, options: &Options, dtype: DType) -> Result<Box<dyn Operator>, Error> {
        self.headers.configure(options, dtype)
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
                _ if spec.single => {}
                Some(DType::F16) => half.push(spec.name),
                Some(DType::F32) => single.push(spec.name),
                Some(_) | None => {}
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
            if let Some(tensor) = tensors.remove(part.name) {
                converted.insert(part.name, stored(op, part.name, tensor, part.dtype, options.strict, ui)?);
            }
        }
        let mut state = state.unwrap_or_default();
        for (_, part) in parts(&slots, Access::Update) {
            if let Some(tensor) = state.remove(part.name) {
                warn_non_finite(op, part.name, &tensor, "", options.strict, ui)?;
                converted.insert(part.name, stored(op, part.name, tensor, part.dtype, options.strict, ui)?);
            }
        }
        Ok(converted)
    }
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
    finite::check(op.name, name, (tensor, spec.map_or(Domain::Finite, |spec| spec.domain)), when, strict, ui)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear;

    #[test]
    fn f16_is_kept_where_it_can_be_and_refused_where_it_was_asked_for() {
        let given = |dtype| Inputs {
            op: &linear::OP,
            tensors: ["q", "k", "v"].map(|name| (name.to_owned(), HostTensor::zeros([1], dtype))).into_iter().collect(),
            headers: Headers::none(&linear::OP),
            state: None,
            made: None,
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
