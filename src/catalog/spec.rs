//! The types of the table of operators: a row declares an operator's tensors with their axes, its flags, defaults and
//! cases.

use std::fmt;

use super::case::Case;
use super::domain::Domain;
use super::flags::{Flag, FlagKind, Flags};
use super::request::Request;
use super::summaries::Summaries;
use crate::error::Error;
use crate::gpu::{Caps, Kernel, Variant};
use crate::operator::Operator;
use crate::tensor::{DType, Layout, Shape};

/// How an operator uses a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A tensor along the sequence. Its storage type follows `--dtype`, and leading axes may be absent.
    Sequence,
    /// A weight. It may have any storage type.
    Weight,
    /// State in f32 and full rank, read from `--state-in` and written to `--state-out`.
    State,
    /// State that holds the earlier tokens of the sequence tensor of the same name. They are prepended to the tokens
    /// given; the next run receives both.
    Cache,
}

/// A tensor that an operator reads or writes.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec {
    /// Name in files.
    pub name: &'static str,
    /// Axis letters under layout bhnd, outermost first: `B H N D`.
    pub axes: &'static str,
    /// How the operator uses it.
    pub role: Role,
    /// Whether a run may omit it.
    pub optional: bool,
    /// The distribution of its values in a random input.
    pub draw: Draw,
    /// Whether its axes follow `--layout`, which puts the heads before or after the length.
    pub follows_layout: bool,
    /// Other forms: the name of each for `--with`, and its axis letters under layout bhnd.
    pub other_forms: &'static [(&'static str, &'static str)],
    /// Whether its axis G has the length of the axis V, the heads of v, if these are more than those of k.
    pub per_value_head: bool,
    /// Name of another tensor that may be given instead of this one.
    pub alternative: Option<&'static str>,
    /// Whether it may have other ranks than `axes` has. The operator checks these.
    pub any_rank: bool,
    /// The values it may contain.
    pub domain: Domain,
    /// Whether its last axis may be longer than the operator needs: the first elements are then used.
    pub longer: bool,
    /// Whether a tensor along the sequence is stored as f32 whatever `--dtype` says.
    pub single: bool,
}

/// Distribution of the values of a random tensor.
#[derive(Debug, Clone, Copy)]
pub enum Draw {
    /// Standard normal.
    Normal,
    /// Absolute value of a standard normal, for sums of weights.
    Positive,
    /// Standard normal values that a function then transforms in place, given the shape of the tensor.
    Shaped(fn(&Shape, &mut [f32])),
    /// Whole numbers from 0 to the length of this axis, which do not decrease.
    Borders(&'static str),
    /// Whole numbers from 0 to the length of this axis, the first of which is that length.
    Lengths(&'static str),
    /// Whole numbers from 0 to below the length of this axis.
    Below(&'static str),
    /// Whole numbers from 0 to below this number.
    BelowCount(usize),
    /// A distribution that depends on flags. The function must return one of the other variants.
    ByFlags(fn(&Flags) -> Draw),
}

impl TensorSpec {
    /// A required tensor along the sequence, with axes in the order of `--layout`.
    pub const fn sequence(name: &'static str, axes: &'static str) -> Self {
        Self {
            name,
            axes,
            role: Role::Sequence,
            optional: false,
            draw: Draw::Normal,
            follows_layout: true,
            other_forms: &[],
            per_value_head: false,
            alternative: None,
            any_rank: false,
            domain: Domain::Finite,
            longer: false,
            single: false,
        }
    }

    /// A required tensor along the sequence, with axes always in the given order.
    pub const fn stream(name: &'static str, axes: &'static str) -> Self {
        Self { follows_layout: false, ..Self::sequence(name, axes) }
    }

    /// An optional weight. If it is not given but the operator needs it, it is drawn from the seed.
    ///
    /// An axis written `1|H` has length 1 or the length of H; in a random input 1, or what the case says under that name.
    pub const fn weight(name: &'static str, axes: &'static str) -> Self {
        Self { role: Role::Weight, optional: true, ..Self::stream(name, axes) }
    }

    /// A state tensor, carried from run to run.
    pub const fn state(name: &'static str, axes: &'static str) -> Self {
        Self { role: Role::State, optional: true, ..Self::stream(name, axes) }
    }

    /// Earlier tokens of the sequence tensor of the same name, carried from run to run.
    pub const fn cache(name: &'static str, axes: &'static str) -> Self {
        Self { role: Role::Cache, ..Self::state(name, axes) }
    }

    /// Makes the tensor optional.
    #[must_use]
    pub const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// Allows other forms: the name of each for `--with`, and its axes.
    #[must_use]
    pub const fn or_forms(self, other_forms: &'static [(&'static str, &'static str)]) -> Self {
        Self { other_forms, ..self }
    }

    /// Gives its axis G the length of the axis V, the heads of v.
    #[must_use]
    pub const fn per_value_head(self) -> Self {
        Self { per_value_head: true, ..self }
    }

    /// The names of the tensor and of its other forms.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.other_forms.iter().map(|(name, _)| *name))
    }

    /// The names for `--with`: a required tensor is there without it, in its first form.
    pub fn choices(&self) -> impl Iterator<Item = &'static str> {
        self.names().skip(usize::from(!self.optional))
    }

    /// Axis letters of each form in the order of `layout`, with the name of the form.
    pub fn each_form(&self, layout: Layout) -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
        let forms = std::iter::once((self.name, self.axes)).chain(self.other_forms.iter().copied());
        forms.map(move |(name, axes)| (name, self.ordered(axes, layout)))
    }

    /// Whether a form has this rank.
    pub fn has_rank(&self, rank: usize) -> bool {
        self.each_form(Layout::Bhnd).any(|(_, letters)| letters.len() == rank)
    }

    /// Whether a tensor has an axis of this letter.
    pub fn has_axis(&self, letter: &str) -> bool {
        let own = |axis: &str| axis.strip_suffix("+1").unwrap_or(axis) == letter;
        let values = self.per_value_head && letter == "V";
        values || self.each_form(Layout::Bhnd).any(|(_, letters)| letters.into_iter().any(own))
    }

    /// Describes its forms in the order of `layout`, for people: `[B, G, N] or [B, G, N, D]`.
    pub fn forms(&self, layout: Layout) -> String {
        let forms: Vec<_> = self.each_form(layout).map(|(_, letters)| format!("[{}]", letters.join(", "))).collect();
        forms.join(" or ")
    }

    /// Allows its last axis to be longer than the operator needs.
    #[must_use]
    pub const fn or_longer(self) -> Self {
        Self { longer: true, ..self }
    }

    /// Stores a tensor along the sequence as f32 whatever `--dtype` says.
    #[must_use]
    pub const fn single(self) -> Self {
        Self { single: true, ..self }
    }

    /// Sets the values it may contain.
    #[must_use]
    pub const fn of(self, domain: Domain) -> Self {
        Self { domain, ..self }
    }

    /// Allows the tensor `other` to be given instead of this one.
    #[must_use]
    pub const fn or(self, other: &'static str) -> Self {
        Self { optional: false, alternative: Some(other), ..self }
    }

    /// Sets the distribution of its values in a random input.
    #[must_use]
    pub const fn drawn(mut self, draw: Draw) -> Self {
        self.draw = draw;
        self
    }

    /// Axis letters in the order of `layout`. Layout bnhd has the length before the heads.
    pub fn letters(&self, layout: Layout) -> Vec<&'static str> {
        self.ordered(self.axes, layout)
    }

    fn ordered(&self, axes: &'static str, layout: Layout) -> Vec<&'static str> {
        let mut letters: Vec<_> = axes.split(' ').collect();
        if self.follows_layout && layout == Layout::Bnhd && letters.len() >= 3 {
            letters.swap(1, 2);
        }
        letters
    }
}

/// Default length of an axis in a random input (`subquad sample`).
#[derive(Debug, Clone, Copy)]
pub enum AxisDefault {
    /// A fixed length.
    Length(usize),
    /// The length of another axis.
    Same(&'static str),
}

/// One operator: a row of the table.
pub struct Op {
    /// Name: one snake_case word.
    pub name: &'static str,
    /// One line for `--help`.
    pub summary: &'static str,
    /// Tensors read. The first required sequence tensor decides which leading axes are absent.
    pub inputs: &'static [TensorSpec],
    /// Tensors written.
    pub outputs: &'static [TensorSpec],
    /// State tensors, read from `--state-in` and written to `--state-out`; empty if the operator carries no state.
    pub state: &'static [TensorSpec],
    /// Axis letters of all tensors, with the default length of each in a random input.
    pub axes: &'static [(&'static str, AxisDefault)],
    /// Flags of this operator, in addition to those that every operator has.
    pub flags: &'static [Flag],
    /// Whether the operator has a causal form, a non-causal form, or both.
    pub causal: Causality,
    /// Whether the operator processes the sequence with a state (`--segment`, `--decode`, state files).
    pub recurrent: bool,
    /// Whether the reference computes some rows at their share of the cost of all rows, so that it can run in parts.
    pub rows_apart: bool,
    /// Cost as a function of the length, for people: `O(N D E)`.
    pub complexity: &'static str,
    /// How summaries of pieces of a sequence are folded (`--summary-out`, `subquad merge`); `None` if there are none.
    pub summaries: Option<Summaries>,
    /// Creates the operator from flags and shapes.
    pub configure: fn(&Request<'_>) -> Result<Box<dyn Operator>, Error>,
    /// Named shapes for tests, `check` and benches.
    pub cases: fn() -> Vec<Case>,
}

/// The masks that an operator supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Causality {
    /// Causal unless `--no-causal` is given.
    Both,
    /// Only causal.
    Always,
    /// Only non-causal; `--causal` is a usage error.
    Never,
    /// Tokens do not see each other; both flags are usage errors.
    Neither,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Op").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Op {
    /// The values of `--layout`: the length behind the heads or channels, and before them.
    pub fn layouts(&self) -> [&'static str; 2] {
        let channels = |spec: &TensorSpec| spec.follows_layout && spec.axes == "B C N";
        if self.inputs.iter().any(channels) { ["bcn", "bnc"] } else { [Layout::Bhnd.name(), Layout::Bnhd.name()] }
    }

    /// The value of `--layout` that stands for this order.
    pub fn layout_name(&self, layout: Layout) -> &'static str {
        self.layouts()[usize::from(layout == Layout::Bnhd)]
    }

    /// Creates the operator from flags and shapes. If a setting is wrong that a flag set, the error names the flag.
    ///
    /// # Errors
    /// The errors of the operator.
    pub fn configure(&self, request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
        self.check_words(request.flags)?;
        (self.configure)(request).map_err(|error| request.flags.spell(error))
    }

    /// Refuses a word that is none of those a flag takes.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check_words(&self, flags: &Flags) -> Result<(), Error> {
        for flag in self.flags {
            if let (FlagKind::Choice(words), Some(word)) = (flag.kind, flags.word(flag.name))
                && !words.contains(&word)
            {
                let (last, others) = words.split_last().unwrap_or((&"nothing", &[]));
                let list =
                    if others.is_empty() { (*last).to_owned() } else { format!("{} or {last}", others.join(", ")) };
                return Err(Error::Usage(format!("{}: --{}: expected {list}, found `{word}`", self.name, flag.name)));
            }
        }
        Ok(())
    }

    /// Finds errors that depend on the flags alone. Configures the operator at the default axis lengths and at twice
    /// those. A setting that gives the same error at both sizes is wrong whatever the shapes are.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn usage(&self, flags: &Flags) -> Result<(), Error> {
        self.usage_by(flags, &|_| Ok(()))
    }

    /// Like [`Op::usage`], for a run that also writes a summary of its piece of a sequence, which some settings do not have.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn usage_with_summary(&self, flags: &Flags) -> Result<(), Error> {
        self.usage_by(flags, &|operator| operator.check_summary())
    }

    fn usage_by(&self, flags: &Flags, check: &dyn Fn(&dyn Operator) -> Result<(), Error>) -> Result<(), Error> {
        let decode = flags.switch("decode") == Some(true);
        let refused = |factor: usize| {
            let axes = self.axes.iter().filter_map(|(letter, default)| match default {
                AxisDefault::Length(_) if decode && *letter == "N" => Some((*letter, 1)),
                AxisDefault::Length(length) => Some((*letter, length * factor)),
                AxisDefault::Same(_) => None,
            });
            let mut case = Case::new("flags", &axes.collect::<Vec<_>>());
            case.flags = flags.clone();
            case.carry = decode;
            case.complete(self);
            case.configure(self).and_then(|operator| check(&*operator).map_err(|error| flags.spell(error))).err()
        };
        match (refused(1), refused(2)) {
            (Some(error @ Error::Usage(_)), _) => Err(error),
            (Some(error @ Error::Setting { .. }), Some(other)) if error == other => {
                Err(Error::Usage(error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// The kind of value that the flag of this name takes, whether it is the operator's own flag or a common one;
    /// `None` if the operator has no such flag.
    pub fn flag(&self, name: &str) -> Option<FlagKind> {
        let own = self.flags.iter().find(|flag| flag.name == name).map(|flag| flag.kind);
        own.or(match name {
            "causal" if self.causal != Causality::Neither => Some(FlagKind::Switch),
            "decode" if self.recurrent => Some(FlagKind::Switch),
            "segment" if self.recurrent => Some(FlagKind::Count),
            _ => None,
        })
    }

    /// Every kernel in every specialisation that the cases use, in both storage types. Shader validation checks this
    /// list.
    pub fn kernels(&self) -> Vec<(&'static Kernel, Variant)> {
        self.kernels_for(&Caps { f16: true, ..Caps::portable() })
    }

    /// Every kernel that a case takes on a device with these capabilities, in every specialisation.
    pub fn kernels_for(&self, caps: &Caps) -> Vec<(&'static Kernel, Variant)> {
        let mut list: Vec<(&'static Kernel, Variant)> = Vec::new();
        for case in (self.cases)() {
            for dtype in [DType::F32, DType::F16] {
                let Ok(operator) = case.clone().dtype(dtype).configure(self) else { continue };
                let Ok(program) = operator.program(caps) else { continue };
                for step in program.steps() {
                    for spec in [Some(&step.spec), step.narrow.as_ref()].into_iter().flatten() {
                        if !list.iter().any(|(kernel, other)| kernel.name == step.kernel.name && other == spec) {
                            list.push((step.kernel, spec.clone()));
                        }
                    }
                }
            }
        }
        list
    }
}
