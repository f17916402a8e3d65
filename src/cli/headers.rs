//! What the headers of the files of a run say: which tensors there are, and whether the operator takes their shapes. All of
//! it is judged before any data is read.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::kv_cache;
use super::options::Options;
use super::report::{self, Ui};
use crate::catalog::absent_axes::AbsentAxes;
use crate::catalog::domain::Domain;
use crate::catalog::flags::Flags;
use crate::catalog::request::Request;
use crate::catalog::spec::{Op, TensorSpec};
use crate::catalog::telling;
use crate::error::Error;
use crate::io::{self, Opened};
use crate::operator::Operator;
use crate::tensor::{Access, DType, Layout, Part, Shape, Slot};

/// Heads from which on it is worth asking whether they are tokens.
const MANY_HEADS: usize = 16;
/// Dim from which on it is worth asking whether it is that of several heads.
const WIDE_DIM: usize = 512;

/// The flag that says how a weight is stored.
const WEIGHT_DTYPE: &str = "weight-dtype";

/// The files of a run, whose data was not read yet.
pub(super) struct Files {
    pub input: Opened,
    pub params: Option<Opened>,
    pub state: Option<Opened>,
}

impl Files {
    /// Opens the files that the options name and reads their headers.
    pub(super) fn open(options: &Options) -> Result<Self, Error> {
        let open = |path: &Option<_>| path.as_deref().map(io::open).transpose();
        Ok(Self { input: io::open(&options.input)?, params: open(&options.params)?, state: open(&options.state_in)? })
    }
}

/// A tensor of the operator in one of the files.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub spec: &'static TensorSpec,
    /// Its name in the file.
    pub name: String,
    /// Whether it is in the second file, that of the weights.
    pub in_params: bool,
    /// Its full shape, without what a state file adds.
    pub full: Shape,
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

/// What the operator takes of the files.
pub(super) struct Headers {
    op: &'static Op,
    /// The tensors of the input and of the weights, in the order of the operator's tensors.
    pub found: Vec<Found>,
    /// Shapes by the operator's names: full, the cached tokens of a state file included.
    shapes: Vec<(String, Shape)>,
    /// Names in the files, those that the operator reads first: the list in an error about a missing tensor.
    given: String,
    /// Names in the input that the operator does not read.
    unused: Option<String>,
    /// What the tensors in the state file are.
    state: Option<Vec<(&'static str, DType, Shape)>>,
    /// Names of everything in the state file.
    pub state_names: String,
    /// How the shapes of sequence tensors differ from full ones.
    pub absent: AbsentAxes,
    /// How each tensor was read, in the order of the operator's tensors.
    pub read: Vec<ReadAs>,
}

impl Headers {
    /// The headers of a run without files.
    #[cfg(test)]
    pub(super) fn none(op: &'static Op) -> Self {
        let (none, absent) = (String::new, AbsentAxes::default());
        let (given, state_names) = (none(), none());
        let (found, shapes, read) = (Vec::new(), Vec::new(), Vec::new());
        Self { op, found, shapes, given, unused: None, state: None, state_names, absent, read }
    }

    /// Finds the operator's tensors in the files.
    pub(super) fn of(op: &'static Op, options: &Options, files: &Files, ui: &mut Ui) -> Result<Self, Error> {
        let input = files.input.listing();
        note_layout(op, &input.metadata, options, ui);
        let mut heads = Vec::new();
        for spec in op.inputs {
            let name = options.names.of(spec);
            let (head, in_params) = match (files.input.head(&name)?, &files.params) {
                (None, Some(params)) => (params.head(&name)?, true),
                (head, _) => (head, false),
            };
            if let Some(head) = head {
                heads.push((spec, name, in_params, head));
            }
        }
        let is_read = |name: &str| heads.iter().any(|(_, known, ..)| known == name);
        let unread: Vec<_> = names(input).filter(|name| !is_read(name)).collect();
        let weights = files.params.iter().flat_map(|file| names(file.listing()));
        let weights = weights.filter(|name| !is_read(name) && !op.inputs.iter().any(|spec| spec.name == *name));
        let own = heads.iter().map(|(_, name, ..)| name.as_str());
        let given = report::names(own.chain(unread.iter().copied()).chain(weights));
        if let Some((name, tensor)) = options.names.mapped().find(|(_, tensor)| !is_read(tensor)) {
            let problem = format!(": expected a tensor `{tensor}` in the files, found none (given: {given})");
            return Err(Error::rule(op.name, format!("--map {name}={tensor}"), problem));
        }
        telling::check(op, unread.iter().filter_map(|name| options.names.bare(name)))?;
        let unused = (!unread.is_empty()).then(|| report::names(unread));

        let shape = |name: &str| heads.iter().find(|(spec, ..)| spec.name == name).map(|(.., (_, shape))| shape);
        let absent = AbsentAxes::of(op, options.layout, options.packed, shape)?;
        let state = files.state.as_ref().map(|file| state(op, file)).transpose()?;
        let state_names = files.state.as_ref().map_or_else(String::new, |file| report::names(names(file.listing())));
        let mut headers = Self {
            op,
            found: Vec::new(),
            shapes: Vec::new(),
            given,
            unused,
            state,
            state_names,
            absent,
            read: Vec::new(),
        };
        for (spec, name, in_params, (dtype, shape)) in heads {
            check_dtype(op, spec, dtype)?;
            let full = headers.absent.complete(op, spec, options.layout, &shape)?;
            let cached = headers.cached(spec, &full, options)?;
            headers.shapes.push((spec.name.to_owned(), cached));
            headers.read.push(ReadAs::new(spec, options.layout, dtype, shape, &full));
            headers.found.push(Found { spec, name, in_params, full });
        }
        if written_layout(op, &input.metadata).is_none() {
            headers.note_heads(options, ui);
        }
        Ok(headers)
    }

    /// The shape of a tensor behind the tokens that the state file has of it.
    fn cached(&self, spec: &TensorSpec, full: &Shape, options: &Options) -> Result<Shape, Error> {
        let op = self.op;
        let Some(cache) = kv_cache::of(op, spec.name).filter(|_| options.carry()) else { return Ok(full.clone()) };
        if let Some((_, lead)) = self.shapes.iter().find(|(name, _)| op.inputs.first().is_some_and(|s| s.name == *name))
        {
            kv_cache::check(op, cache, full, lead, options.layout)?;
        }
        let Some(state) = &self.state else { return Ok(full.clone()) };
        let Some((_, dtype, before)) = state.iter().find(|(name, ..)| *name == spec.name) else {
            return Err(self.missing_state(spec.name, cache.forms(Layout::Bhnd)));
        };
        kv_cache::extended(op, cache, (*dtype, before), full, options.layout)
    }

    /// A tensor that the state file lacks.
    fn missing_state(&self, name: &str, form: String) -> Error {
        let expected = format!("{form} in the state file");
        Error::Missing { op: self.op.name, tensor: name.into(), expected, given: self.state_names.clone() }
    }

    /// The operator for these shapes and this storage.
    pub(super) fn configure(&self, options: &Options, dtype: DType) -> Result<Box<dyn Operator>, Error> {
        let (layout, flags) = (options.layout, self.flags(options));
        let request = Request { flags: &flags, shapes: &self.shapes, layout, dtype, carry: options.carry() };
        self.op.configure(&request).map_err(|error| match error {
            Error::Missing { op, tensor, mut expected, .. } => {
                if let Some(spec) = self.op.inputs.iter().find(|spec| spec.name == tensor) {
                    if options.packed.is_some() {
                        expected = self.absent.whole(spec, layout);
                    }
                    let name = options.names.of(spec);
                    if name != tensor {
                        expected += &format!(" under the name `{name}`");
                    }
                }
                Error::Missing { op, tensor, expected, given: self.given.clone() }
            }
            other => other,
        })
    }

    /// The flags of a run. A weight whose storage type a flag may say keeps that of the file otherwise.
    fn flags<'o>(&self, options: &'o Options) -> Cow<'o, Flags> {
        let half = self.read.iter().any(|read| read.name == "weight" && read.dtype == DType::F16);
        let flags = &options.flags;
        if !half || self.op.flag(WEIGHT_DTYPE).is_none() || flags.word(WEIGHT_DTYPE).is_some() {
            return Cow::Borrowed(flags);
        }
        let mut flags = flags.clone();
        flags.set(WEIGHT_DTYPE, DType::F16.name());
        Cow::Owned(flags)
    }

    /// Compares every shape with what the operator needs, those of the state file too.
    pub(super) fn check(&self, operator: &dyn Operator) -> Result<(), Error> {
        let op = self.op;
        let slots = operator.slots();
        for (_, part) in parts(&slots, Access::Read) {
            let fits = |given: &Shape| *given == part.shape || self.cut(part, given).is_some();
            if let Some((_, shape)) = self.shapes.iter().find(|(name, shape)| name == part.name && !fits(shape)) {
                return Err(Error::tensor(op.name, part.name, part.shape.to_string(), shape.to_string()));
            }
        }
        let Some(state) = &self.state else { return Ok(()) };
        for (_, part) in parts(&slots, Access::Update) {
            let Some((_, dtype, shape)) = state.iter().find(|(name, ..)| *name == part.name) else {
                return Err(self.missing_state(part.name, part.shape.to_string()));
            };
            let fits = if part.dtype == DType::I64 { *dtype == DType::I64 } else { dtype.is_float() };
            if *shape != part.shape || !fits {
                let expected = format!("{} {} in the state file", part.dtype, part.shape);
                return Err(Error::tensor(op.name, part.name, expected, format!("{dtype} {shape}")));
            }
        }
        Ok(())
    }

    /// How many elements of its last axis are used of a tensor that is longer than the operator needs, where it may be.
    pub(super) fn cut(&self, part: &Part, given: &Shape) -> Option<usize> {
        self.op.inputs.iter().find(|spec| spec.name == part.name && spec.longer)?;
        let ([before @ .., used], [lead @ .., length]) = (part.shape.dims(), given.dims()) else { return None };
        (before == lead && used < length).then_some(*used)
    }

    /// Prints the names of the tensors in the input that the operator does not read.
    pub(super) fn note_unused(&self, ui: &Ui) {
        if let Some(names) = &self.unused {
            ui.note(&format!("not used: {names} (tensors of the input that {} does not read)", self.op.name));
        }
    }

    /// Says how the first tensor was read if that looks odd and nothing said which axis is which.
    fn note_heads(&self, options: &Options, ui: &Ui) {
        let Some(read) = self.read.first().filter(|_| options.layout_is_assumed) else { return };
        let length = |wanted: &str| read.axes.iter().find(|(letter, _)| *letter == wanted).map(|(_, length)| *length);
        let (Some(heads), Some(tokens)) = (length("H"), length("N")) else { return };
        let (name, rank) = (read.name, read.shape.rank());
        // One token with many heads is a step of decoding, and a short example has few of both.
        if heads > tokens && tokens > 1 && heads >= MANY_HEADS {
            let order = if rank == 4 { "[B, N, H, D]" } else { "[N, H, D]" };
            let read = format!("{name} is read as H={heads} heads of N={tokens} tokens");
            ui.note(&format!("{read}; if it is {order}, give --layout bnhd"));
        } else if let Some(dim) = length("D").filter(|dim| rank < 4 && *dim >= WIDE_DIM) {
            let order = if rank == 3 { "[B, N, H*D]" } else { "[N, H*D]" };
            ui.note(&format!("{name} is read as H={heads} heads of D={dim}; if it is {order}, give --heads"));
        }
    }
}

impl ReadAs {
    fn new(spec: &TensorSpec, layout: Layout, dtype: DType, shape: Shape, full: &Shape) -> Self {
        let letters = spec.each_form(layout).map(|(_, letters)| letters).find(|letters| letters.len() == full.rank());
        // An axis `1|H` has one length for all heads, or one per head; `seqs+1` has one more than the number it is named by.
        let axis = |(letter, length): (&'static str, usize)| match letter.strip_suffix("+1") {
            Some(letter) => (letter, length.saturating_sub(1)),
            None => (letter.strip_prefix("1|").unwrap_or(letter), length),
        };
        let axes = letters.into_iter().flatten().zip(full.dims().iter().copied()).map(axis).collect();
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

/// The parts of the slots with this access.
pub(super) fn parts(slots: &[Slot], access: Access) -> impl Iterator<Item = (&Slot, &Part)> {
    let slots = slots.iter().filter(move |slot| slot.access == access);
    slots.flat_map(|slot| slot.parts.iter().map(move |part| (slot, part)))
}

/// Refuses a tensor of another kind than the operator takes: numbers, whole numbers or a mask.
fn check_dtype(op: &Op, spec: &TensorSpec, dtype: DType) -> Result<(), Error> {
    let (expected, fits) = match spec.domain {
        Domain::Count | Domain::Index => ("i64, i32 or u32", dtype == DType::I64),
        Domain::Mask => ("bool or u8", dtype == DType::U8),
        _ => ("f32, f16, bf16 or f64", dtype.is_float()),
    };
    let found = if dtype == DType::I64 && spec.domain != Domain::Mask { "whole numbers" } else { dtype.name() };
    if fits { Ok(()) } else { Err(Error::tensor(op.name, spec.name, expected, found)) }
}

/// The tensors of a state file that the operator knows.
fn state(op: &Op, file: &Opened) -> Result<Vec<(&'static str, DType, Shape)>, Error> {
    let mut known = Vec::new();
    for spec in op.state {
        if let Some((dtype, shape)) = file.head(spec.name)? {
            known.push((spec.name, dtype, shape));
        }
    }
    Ok(known)
}

fn names(listing: &io::Listing) -> impl Iterator<Item = &str> {
    listing.entries.iter().map(|entry| entry.name.as_str())
}

/// The layout that the file says it has, as files that `sample` and `run` wrote do.
fn written_layout<'a>(op: &Op, metadata: &'a BTreeMap<String, String>) -> Option<&'a str> {
    metadata.get("layout").map(String::as_str).filter(|word| op.layouts().contains(word))
}

/// Warns if the file says it has the other layout.
fn note_layout(op: &Op, metadata: &BTreeMap<String, String>, options: &Options, ui: &mut Ui) {
    let read = op.layout_name(options.layout);
    if let Some(written) = written_layout(op, metadata).filter(|written| *written != read) {
        ui.warn(format!("the input says that its layout is {written}, but it is read as {read}"));
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
}
