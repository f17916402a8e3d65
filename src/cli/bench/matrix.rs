//! The shapes to measure: every combination of the lists and ranges on the command line, for every operator of
//! [`OPS`](crate::ops::OPS).

use clap::ArgMatches;

use super::super::{args, options};
use crate::catalog::case::Case;
use crate::catalog::flags::{FlagKind, Flags};
use crate::catalog::spec::{Causality, Op, TensorSpec};
use crate::error::Error;
use crate::measure::Place;
use crate::ops::{self, BASELINE, OPS};
use crate::tensor::{DType, Layout};

/// Default lengths.
const ON_HARDWARE: [usize; 4] = [1024, 4096, 16384, 65536];
const ON_SOFTWARE: [usize; 2] = [256, 1024];
const ON_CPU: [usize; 3] = [1024, 4096, 16384];

/// Most combinations in one run: with more, a range is probably mistyped.
const MOST: usize = 4096;

/// The options of the command line, for all operators.
pub(super) struct Matrix {
    ops: Vec<&'static Op>,
    /// Letter and lengths of each axis that has an option of its own; empty: the default.
    lists: Vec<(&'static str, Vec<usize>)>,
    dtypes: Vec<DType>,
    layout: Layout,
    /// Lengths of other axes, given with `--shape`.
    axes: Vec<(String, usize)>,
    flags: Vec<(String, String)>,
    with: Vec<String>,
    seed: u64,
}

/// An operator at a shape.
#[derive(Clone)]
pub(super) struct Job {
    pub op: &'static Op,
    pub case: Case,
    /// Every axis of its tensors with its length, in the order of the operator's table.
    pub shape: Vec<(&'static str, usize)>,
}

impl Job {
    /// `softmax --no-causal`.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.op.name, options::as_typed(self.op, &self.case.flags)).trim_end().to_owned()
    }

    fn new(op: &'static Op, case: Case) -> Self {
        // The axes of all tensors that the operator reads and writes, including drawn parameters, whose lengths can come
        // from flags. If the operator refuses the case: the axes of the tensors that it would read.
        let mut lengths: Vec<(&str, usize)> = Vec::new();
        match case.configure(op) {
            Ok(operator) => {
                for part in operator.slots().iter().flat_map(|slot| &slot.parts) {
                    let spec = op.inputs.iter().chain(op.outputs).find(|spec| spec.name == part.name);
                    let letters = spec.map(|spec| spec.letters(case.layout)).unwrap_or_default();
                    lengths.extend(letters.into_iter().zip(part.shape.dims().iter().copied()));
                }
            }
            Err(_) => {
                let letters = case.given(op).flat_map(|spec| spec.letters(case.layout));
                lengths.extend(letters.filter_map(|letter| Some((letter, case.axis(op, letter)?))));
            }
        }
        let known = |letter: &'static str| Some((letter, lengths.iter().find(|(other, _)| *other == letter)?.1));
        let shape = op.axes.iter().filter_map(|(letter, _)| known(letter)).collect();
        Self { op, case, shape }
    }

    /// Length in tokens.
    pub(super) fn length(&self) -> usize {
        self.case.axis(self.op, "N").unwrap_or(1)
    }
}

/// Options for axes: name, letter, help.
pub(super) const OPTIONS: [(&str, &str, &str); 4] = [
    ("length", "N", "Length in tokens [default: 1024-65536*4; software adapters: 256,1024; cpu: 1024-16384*4]"),
    ("heads", "H", "Number of query heads [default: 8]"),
    ("dim", "D", "Key dim and value dim [default: 64]"),
    ("batch", "B", "Batch size [default: 1]"),
];

impl Matrix {
    /// Reads the arguments.
    ///
    /// # Errors
    /// [`Error::Usage`] for options that none of the operators can use.
    pub(super) fn of(matches: &ArgMatches) -> Result<Self, Error> {
        let mut lists = Vec::new();
        for (option, letter, _) in OPTIONS {
            let list = args::word_of(matches, option).map(|text| list(option, text)).transpose()?;
            lists.push((letter, list.unwrap_or_default()));
        }
        let words = |name| matches.get_many::<String>(name).into_iter().flatten().cloned().collect::<Vec<_>>();
        let mut dtypes: Vec<_> =
            words("dtype").iter().map(|word| if word == "f16" { DType::F16 } else { DType::F32 }).collect();
        dtypes.sort_by_key(|dtype| *dtype == DType::F16);
        dtypes.dedup();
        let mut matrix = Self {
            ops: args::ops_of(matches, OPS.iter()),
            lists,
            dtypes: if dtypes.is_empty() { vec![DType::F32] } else { dtypes },
            layout: args::layout_of(matches).unwrap_or_default(),
            axes: Vec::new(),
            flags: Vec::new(),
            with: words("with"),
            seed: args::seed_of("bench", matches)?,
        };
        for pair in words("shape") {
            let axis = matrix.axis(&pair)?;
            matrix.axes.push(axis);
        }
        for pair in words("flag") {
            let flag = matrix.flag(&pair)?;
            matrix.flags.push(flag);
        }
        for name in &matrix.with {
            let known = |op: &&Op| op.inputs.iter().any(|spec| spec.choices().any(|own| own == name));
            if !matrix.ops.iter().any(known) {
                let text = format!("--with {name}: none of these operators has an optional tensor of that name");
                return Err(Error::Usage(format!("bench: {text}")));
            }
        }
        for op in &matrix.ops {
            op.usage(&matrix.flags_of(op))?;
        }
        Ok(matrix)
    }

    fn axis(&self, pair: &str) -> Result<(String, usize), Error> {
        let refuse = || {
            let mut letters: Vec<_> = self.ops.iter().flat_map(|op| op.axes).map(|(letter, _)| *letter).collect();
            letters.sort_unstable();
            letters.dedup();
            let text =
                format!("--shape: expected an axis of the drawn tensors and its length, such as G=2, found `{pair}`");
            Error::Usage(format!("bench: {text} (axes: {}; for optional tensors see --with)", letters.join(", ")))
        };
        let (letter, length) = pair.split_once('=').ok_or_else(refuse)?;
        if let Some((option, ..)) = OPTIONS.iter().find(|(_, own, _)| *own == letter) {
            return Err(Error::Usage(format!("bench: --shape {pair}: use --{option} to set this axis")));
        }
        if self.axes.iter().any(|(known, _)| known == letter) {
            return Err(Error::Usage(format!("bench: --shape {pair}: axis {letter} is given twice")));
        }
        // An axis of tensors that are not drawn has no meaning.
        let given =
            |spec: &&TensorSpec| !spec.optional || spec.names().any(|own| self.with.iter().any(|name| name == own));
        let mut specs = self.ops.iter().flat_map(|op| op.inputs.iter().filter(given));
        let known = specs.any(|spec| spec.letters(self.layout).contains(&letter));
        match length.parse() {
            Ok(length) if known && length > 0 => Ok((letter.to_owned(), length)),
            _ => Err(refuse()),
        }
    }

    fn flag(&self, pair: &str) -> Result<(String, String), Error> {
        let refuse = |expected: &str| Error::Usage(format!("bench: --flag: expected {expected}, found `{pair}`"));
        let (name, value) = pair.split_once('=').ok_or_else(|| refuse("NAME=VALUE"))?;
        let mut kinds = self.ops.iter().filter_map(|op| op.flag(name)).peekable();
        if kinds.peek().is_none() {
            let owners: Vec<_> = ops::all().filter(|op| op.flag(name).is_some()).map(|op| op.name).collect();
            let hint =
                if owners.is_empty() { String::new() } else { format!("; it is a flag of {}", owners.join(" and ")) };
            let text = format!("--flag {pair}: none of these operators has a flag `{name}`{hint}");
            return Err(Error::Usage(format!("bench: {text}")));
        }
        if kinds.any(|kind| matches!(kind, FlagKind::Switch)) && !matches!(value, "true" | "false") {
            return Err(refuse("true or false"));
        }
        Ok((name.to_owned(), value.to_owned()))
    }

    /// The flags that this operator has.
    fn flags_of(&self, op: &Op) -> Flags {
        let mut flags = Flags::new();
        // An operator with one form is measured in it.
        let has = |name: &str| op.flag(name).is_some() && (name != "causal" || op.causal == Causality::Both);
        for (name, value) in self.flags.iter().filter(|(name, _)| has(name)) {
            flags.set(name, value.as_str());
        }
        flags
    }

    /// The settings to measure an operator with: those asked for. Softmax is also measured without its mask if an operator
    /// without a mask is to be compared with it.
    fn forms(&self, op: &'static Op) -> Vec<Flags> {
        let flags = self.flags_of(op);
        let mut forms = vec![flags.clone()];
        let unmasked = self.ops.iter().any(|other| other.causal == Causality::Never);
        if op.name == BASELINE && unmasked && flags.word("causal").is_none() {
            let mut open = flags;
            open.set("causal", "false");
            if op.usage(&open).is_ok() {
                forms.push(open);
            }
        }
        forms
    }

    /// The jobs for a target, shortest first, so that an interrupted run has results for every operator.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are too many.
    pub(super) fn jobs(&self, place: &Place<'_>) -> Result<Vec<Job>, Error> {
        let defaults: &[usize] = match place {
            Place::Cpu => &ON_CPU,
            Place::Gpu(ctx) if ctx.caps().software => &ON_SOFTWARE,
            Place::Gpu(_) => &ON_HARDWARE,
        };
        let mut jobs = Vec::new();
        for op in &self.ops {
            let mut shapes: Vec<Vec<(&'static str, usize)>> = vec![Vec::new()];
            for (letter, list) in &self.lists {
                let list = if *letter == "N" && list.is_empty() { defaults } else { list };
                if list.is_empty() || !op.axes.iter().any(|(known, _)| known == letter) {
                    continue;
                }
                shapes = shapes
                    .iter()
                    .flat_map(|shape| list.iter().map(|n| [&shape[..], &[(*letter, *n)]].concat()))
                    .collect();
                if shapes.len() > MOST {
                    return Err(too_many());
                }
            }
            for shape in &mut shapes {
                for (letter, length) in &self.axes {
                    if let Some((known, _)) = op.axes.iter().find(|(known, _)| known == letter) {
                        shape.push((known, *length));
                    }
                }
            }
            for flags in self.forms(op) {
                for dtype in &self.dtypes {
                    for shape in &shapes {
                        let mut case = Case::new("bench", shape).layout(self.layout).dtype(*dtype);
                        case.flags = flags.clone();
                        case.seed = self.seed;
                        let optional = || op.inputs.iter().filter(|spec| spec.optional).flat_map(TensorSpec::names);
                        case.with = self.with.iter().filter_map(|name| optional().find(|own| own == name)).collect();
                        case.complete(op);
                        jobs.push(Job::new(op, case));
                    }
                }
            }
            if jobs.len() > MOST {
                return Err(too_many());
            }
        }
        jobs.sort_by_key(Job::length);
        Ok(jobs)
    }
}

fn too_many() -> Error {
    Error::Usage(format!("bench: the lists give more than {MOST} shapes"))
}

/// Reads `1024,4096`, `1024-65536*4`, `64-256+64`, or several of these.
fn list(option: &str, text: &str) -> Result<Vec<usize>, Error> {
    let refuse = |found: &str| {
        let text = "expected whole numbers from 1, such as 1024,4096 or 1024-65536*4 or 64-256+64";
        Error::Usage(format!("bench: --{option}: {text}, found `{found}`"))
    };
    let number = |text: &str| text.trim().parse().ok().filter(|n: &usize| *n > 0).ok_or_else(|| refuse(text));
    let mut list = Vec::new();
    for part in text.split(',') {
        let Some((first, rest)) = part.split_once('-') else {
            list.push(number(part)?);
            continue;
        };
        let at = rest.find(['*', '+']).ok_or_else(|| refuse(part))?;
        let (first, last, step) = (number(first)?, number(&rest[..at])?, number(&rest[at + 1..])?);
        let times = rest.as_bytes().get(at) == Some(&b'*');
        if first > last || (times && step < 2) {
            return Err(refuse(part));
        }
        let mut next = Some(first);
        while let Some(value) = next.filter(|value| *value <= last) {
            list.push(value);
            if list.len() > MOST {
                return Err(too_many());
            }
            next = if times { value.checked_mul(step) } else { value.checked_add(step) };
        }
    }
    list.sort_unstable();
    list.dedup();
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        for (text, want) in [
            ("1024", &[1024][..]),
            ("4096,1024, 1024", &[1024, 4096]),
            ("1024-65536*4", &[1024, 4096, 16384, 65536]),
            ("64-200+64", &[64, 128, 192]),
            ("1-8*2,100", &[1, 2, 4, 8, 100]),
            ("5-5+1", &[5]),
        ] {
            assert_eq!(list("length", text).as_deref(), Ok(want), "{text}");
        }
        for text in ["", "0", "a", "-1", "1-2", "8-4*2", "1-8*1", "1-8+0", "1-8*", "1,,2", "99999999999999999999999"] {
            let refused = list("length", text).map_err(|error| error.to_string());
            let sentence =
                "bench: --length: expected whole numbers from 1, such as 1024,4096 or 1024-65536*4 or 64-256+64";
            assert!(refused.as_ref().is_err_and(|error| error.starts_with(sentence)), "{text}: {refused:?}");
        }
        assert_eq!(list("length", "1-99999999+1"), Err(too_many()));
        assert_eq!(list("length", &format!("{}-{}*2", usize::MAX, usize::MAX)), Ok(vec![usize::MAX]));
    }

    fn jobs(arguments: &str) -> Result<Vec<String>, String> {
        let words = ["bench"].into_iter().chain(arguments.split_whitespace());
        let matches = super::super::command().try_get_matches_from(words).map_err(|error| error.to_string())?;
        let jobs =
            Matrix::of(&matches).and_then(|matrix| matrix.jobs(&Place::Cpu)).map_err(|error| error.to_string())?;
        let one = |job: &Job| {
            let shape: Vec<_> = job.shape.iter().map(|(letter, n)| format!("{letter}{n}")).collect();
            format!("{} {} {}", job.name(), shape.join(" "), job.case.dtype)
        };
        Ok(jobs.iter().map(one).collect())
    }

    #[test]
    fn options_are_combined_and_softmax_is_also_measured_without_its_mask() {
        assert_eq!(
            jobs("softmax linformer --length 256,512 --heads 2 --dim 8"),
            Ok(vec![
                "softmax B1 H2 G2 N256 M256 D8 E8 f32".into(),
                "softmax --no-causal B1 H2 G2 N256 M256 D8 E8 f32".into(),
                "linformer B1 H2 G2 N256 M256 D8 E8 K256 f32".into(),
                "softmax B1 H2 G2 N512 M512 D8 E8 f32".into(),
                "softmax --no-causal B1 H2 G2 N512 M512 D8 E8 f32".into(),
                "linformer B1 H2 G2 N512 M512 D8 E8 K256 f32".into(),
            ])
        );
        assert_eq!(
            jobs("linear --length 64 --dtype f32,f16 --shape G=4 --shape E=32 --flag normalize=false"),
            Ok(vec![
                "linear --no-normalize B1 H8 G4 N64 M64 D64 E32 f32".into(),
                "linear --no-normalize B1 H8 G4 N64 M64 D64 E32 f16".into(),
            ])
        );
        // The shape says what ran, whether a flag or a tensor set it.
        for rank in ["--flag rank=16", "--shape K=16 --with e"] {
            let job = jobs(&format!("linformer --length 64 {rank}")).unwrap_or_default().remove(0);
            assert!(job.contains("K16"), "{rank}: {job}");
        }
        assert_eq!(jobs("softmax --batch 1-4+1 --dim 16,32").map(|jobs| jobs.len()), Ok(3 * 4 * 2));
        let one_form = jobs("--length 64 --flag causal=false --flag rank=16").map(|jobs| jobs.len());
        assert_eq!(one_form, Ok(OPS.len()), "one form of each");
    }

    #[test]
    fn what_no_operator_can_take_is_refused() {
        for (arguments, sentence) in [
            (
                "linear --flag window=3",
                "bench: --flag window=3: none of these operators has a flag `window`; it is a flag of softmax",
            ),
            ("linear --flag causal", "bench: --flag: expected NAME=VALUE, found `causal`"),
            ("linear --flag causal=no", "bench: --flag: expected true or false, found `causal=no`"),
            (
                "linformer --shape K=3",
                "bench: --shape: expected an axis of the drawn tensors and its length, such as G=2, found `K=3`",
            ),
            ("softmax --shape H=3", "bench: --shape H=3: use --heads to set this axis"),
            ("softmax --shape G=1 --shape G=2", "bench: --shape G=2: axis G is given twice"),
            (
                "softmax --shape G",
                "bench: --shape: expected an axis of the drawn tensors and its length, such as G=2, found `G`",
            ),
            ("softmax --with e", "bench: --with e: none of these operators has an optional tensor of that name"),
            ("softmax --length 1-64+1 --heads 1-64+1 --batch 1,2", "bench: the lists give more than 4096 shapes"),
            ("softmax --flag window=3 --flag causal=false", "softmax: --window needs the causal form"),
        ] {
            let refused = jobs(arguments);
            assert!(refused.as_ref().is_err_and(|error| error.starts_with(sentence)), "{arguments}: {refused:?}");
        }
    }
}
