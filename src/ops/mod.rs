//! The operators. [`OPS`] has one row per operator; the command line, `check`, the tests and the benches iterate over it.
//!
//! An operator is one place under five equal names: `src/ops/X`, `shaders/X`, `tests/ops/X.rs`, its row here and
//! `subquad run X`. A new operator adds its places and its row and changes nothing else.

mod attend;
pub mod case;
#[cfg(all(feature = "cli", not(target_arch = "wasm32")))]
pub mod ceilings;
pub mod channels;
pub mod conv1d;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cli")]
pub mod draw;
pub mod execute;
pub mod flags;
pub mod float;
pub mod linear;
pub mod linformer;
pub mod mamba;
#[cfg(all(feature = "cli", not(target_arch = "wasm32")))]
pub mod measure;
pub mod mta;
pub mod parts;
pub mod qkv;
pub mod ramnet;
pub mod rank;
pub mod recurrence;
pub mod rows;
pub mod slay;
pub mod softmax;
pub mod ssd;
pub mod tolerance;
pub mod values;
mod walk;
pub mod yat;

use crate::error::Error;
use crate::gpu::program::{Cost, Program};
use crate::gpu::{Caps, Context, Kernel, Plan, Spec};
use crate::tensor::{DType, Layout, Shape, Slot, TensorMap};

pub use case::Case;
pub use channels::Channels;
pub use flags::{Flag, FlagKind, Flags};
pub use qkv::Qkv;
pub use rows::Rows;
pub use values::Domain;
pub(crate) use walk::{Walk, check_decode_flags, check_walk};

/// What a tensor is to its operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A tensor along the sequence: its dtype follows `--dtype`, leading axes may be missing.
    Sequence,
    /// A weight: as given, any storage type.
    Weight,
    /// State: f32, full rank, in `--state-in` and `--state-out`.
    State,
    /// State that is the sequence tensor of that name so far: it stands in front of the tokens given, and with them is what
    /// the next run starts from.
    Cache,
}

/// A tensor an operator reads or writes, as its row declares it.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec {
    /// Name in files.
    pub name: &'static str,
    /// Axis letters outermost first under layout bhnd: `B H N D`.
    pub axes: &'static str,
    /// What it is.
    pub role: Role,
    /// Whether a run is complete without it.
    pub optional: bool,
    /// What values a made-up one has.
    pub draw: Draw,
    /// Whether its axes follow `--layout`: heads before or behind the length.
    pub follows_layout: bool,
    /// A second form, with one more axis behind the others: what `--with` calls it, and the letter.
    pub wide: Option<(&'static str, &'static str)>,
    /// The tensor that may be given in place of this one.
    pub unless: Option<&'static str>,
    /// Whether it has forms of other ranks than that of its axes, which the operator judges.
    pub several: bool,
    /// The values it may have.
    pub domain: Domain,
}

/// Values of a made-up tensor.
#[derive(Debug, Clone, Copy)]
pub enum Draw {
    /// Standard normal.
    Normal,
    /// Absolute value of a standard normal: sums of weights.
    Positive,
    /// Standard normal values, then changed in place: what a parameter's distribution makes of them for its shape.
    Shaped(fn(&Shape, &mut [f32])),
}

impl TensorSpec {
    /// A required tensor along the sequence, its axes in the order of `--layout`.
    pub const fn sequence(name: &'static str, axes: &'static str) -> Self {
        Self {
            name,
            axes,
            role: Role::Sequence,
            optional: false,
            draw: Draw::Normal,
            follows_layout: true,
            wide: None,
            unless: None,
            several: false,
            domain: Domain::Finite,
        }
    }

    /// A required tensor along the sequence, its axes always in the order given.
    pub const fn stream(name: &'static str, axes: &'static str) -> Self {
        Self { follows_layout: false, ..Self::sequence(name, axes) }
    }

    /// A weight an operator can do without: it is drawn from the seed where the operator needs it all the same.
    ///
    /// An axis written `1|H` has length 1 or that of H.
    pub const fn weight(name: &'static str, axes: &'static str) -> Self {
        Self { role: Role::Weight, optional: true, ..Self::stream(name, axes) }
    }

    /// State, carried from run to run.
    pub const fn state(name: &'static str, axes: &'static str) -> Self {
        Self { role: Role::State, optional: true, ..Self::stream(name, axes) }
    }

    /// Tokens of the sequence tensor of that name, carried from run to run.
    pub const fn cache(name: &'static str, axes: &'static str) -> Self {
        Self { role: Role::Cache, ..Self::state(name, axes) }
    }

    /// One that not every run has.
    pub const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// Which may have this axis more, behind the others; `--with` then calls it so.
    pub const fn or_wide(self, name: &'static str, letter: &'static str) -> Self {
        Self { wide: Some((name, letter)), ..self }
    }

    /// What `--with` calls it, and its second form.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.wide.map(|(name, _)| name))
    }

    /// Its forms in the order of `layout`, to read: `[B, G, N] or [B, G, N, D]`.
    pub fn forms(&self, layout: Layout) -> String {
        let letters = self.letters(layout).join(", ");
        match self.wide {
            Some((_, letter)) => format!("[{letters}] or [{letters}, {letter}]"),
            None => format!("[{letters}]"),
        }
    }

    /// Which may have these values.
    pub const fn of(self, domain: Domain) -> Self {
        Self { domain, ..self }
    }

    /// Or that tensor in its place.
    pub const fn or(self, other: &'static str) -> Self {
        Self { optional: false, unless: Some(other), ..self }
    }

    /// With values of this kind where they are made up.
    pub const fn drawn(mut self, draw: Draw) -> Self {
        self.draw = draw;
        self
    }

    /// Axis letters in the order of `layout`: under bnhd the length stands before the heads.
    pub fn letters(&self, layout: Layout) -> Vec<&'static str> {
        let mut letters: Vec<_> = self.axes.split(' ').collect();
        if self.follows_layout && layout == Layout::Bnhd && letters.len() >= 3 {
            letters.swap(1, 2);
        }
        letters
    }
}

/// Default length of an axis when an input is made up (`subquad sample`).
#[derive(Debug, Clone, Copy)]
pub enum AxisDefault {
    /// This length.
    Length(usize),
    /// The length of that axis.
    Same(&'static str),
}

/// One operator.
pub struct Op {
    /// Name: one snake_case word.
    pub name: &'static str,
    /// One line for `--help`.
    pub summary: &'static str,
    /// Tensors read. The first sequence tensor decides which leading axes are absent.
    pub inputs: &'static [TensorSpec],
    /// Tensors written.
    pub outputs: &'static [TensorSpec],
    /// State tensors read from `--state-in` and written to `--state-out`; empty for operators that carry none.
    pub state: &'static [TensorSpec],
    /// Axis letters of all tensors, with the length each has in a made-up input.
    pub axes: &'static [(&'static str, AxisDefault)],
    /// Flags of its own, beside those every operator has.
    pub flags: &'static [Flag],
    /// Whether it has a causal and a non-causal form.
    pub causal: Causality,
    /// Whether it runs along the sequence with a state (`--segment`, `--decode`, state files).
    pub recurrent: bool,
    /// Cost in the length, for people: `O(N D E)`.
    pub complexity: &'static str,
    /// Checks what is wrong by the flags alone ([`Error::Usage`]).
    pub usage: fn(&Flags) -> Result<(), Error>,
    /// Fits flags and shapes together.
    pub configure: fn(&Request<'_>) -> Result<Box<dyn Operator>, Error>,
    /// Named shapes for tests, `check` and benches.
    pub cases: fn() -> Vec<Case>,
}

/// Which of the two masks an operator knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Causality {
    /// Causal unless `--no-causal` is given.
    Both,
    /// Only causal.
    Always,
    /// Only without a mask; `--causal` is a usage error.
    Never,
}

/// What [`Op::configure`] works from.
pub struct Request<'a> {
    /// Flags as given.
    pub flags: &'a Flags,
    /// Shapes of the tensors given; those of sequence tensors full rank, in the order of `layout`.
    pub shapes: &'a [(String, Shape)],
    /// Axis order of sequence tensors.
    pub layout: Layout,
    /// Storage type of sequence tensors.
    pub dtype: DType,
    /// Whether state is read in or written out.
    pub carry: bool,
}

impl Request<'_> {
    /// Shape of the tensor of that name, if it was given.
    pub fn shape(&self, name: &str) -> Option<&Shape> {
        self.shapes.iter().find(|(n, _)| n == name).map(|(_, s)| s)
    }

    /// Shape of a tensor the operator needs, which must have `spec`'s rank and no axis of length 0.
    pub fn required(&self, op: &'static str, spec: &TensorSpec) -> Result<&Shape, Error> {
        let Some(shape) = self.shape(spec.name) else {
            let given: Vec<_> = self.shapes.iter().map(|(n, _)| n.as_str()).collect();
            let instead = spec.unless.map_or_else(String::new, |other| format!(", or `{other}` in its place"));
            return Err(Error::Missing {
                op,
                tensor: spec.name.into(),
                expected: spec.forms(self.layout) + &instead,
                given: if given.is_empty() { "none".into() } else { given.join(", ") },
            });
        };
        self.form(op, spec, shape)?;
        Ok(shape)
    }

    /// Shape of a tensor the operator can do without, judged as [`Request::required`] does if it was given.
    pub fn optional(&self, op: &'static str, spec: &TensorSpec) -> Result<Option<&Shape>, Error> {
        self.shape(spec.name).map(|shape| self.form(op, spec, shape).map(|()| shape)).transpose()
    }

    fn form(&self, op: &'static str, spec: &TensorSpec, shape: &Shape) -> Result<(), Error> {
        let rank = spec.axes.split(' ').count();
        if shape.rank() != rank && !(spec.wide.is_some() && shape.rank() == rank + 1) {
            let ranks = if spec.wide.is_some() { format!("{rank} or {}", rank + 1) } else { rank.to_string() };
            let expected = format!("rank {ranks} {}", spec.forms(self.layout));
            return Err(Error::tensor(op, spec.name, expected, format!("rank {} {shape}", shape.rank())));
        }
        if shape.dims().contains(&0) {
            return Err(Error::tensor(op, spec.name, "axes of length 1 or more", shape.to_string()));
        }
        Ok(())
    }
}

/// Precision of the definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single: what error the definition itself makes in f32.
    F32,
    /// Double: the truth.
    F64,
}

/// Outputs of the definition, by name, as f64 whatever precision they were computed in.
pub type Definition = Vec<(&'static str, Vec<f64>)>;

/// An operator at a shape, with its settings, ready for any backend. Made by [`Op::configure`] or from the operator's
/// own `Config`.
pub trait Operator: Send + Sync {
    /// Every tensor with its exact shape and dtype. Tensors of [`Access::Update`](crate::tensor::Access::Update) are
    /// the state. A tensor to read that was not among the shapes is a parameter to be drawn (see [`draw`]).
    fn slots(&self) -> Vec<Slot>;

    /// What a GPU with these capabilities has to do.
    fn program(&self, caps: &Caps) -> Result<Program, Error>;

    /// The `cpu` backend: f32, all threads of the current rayon pool. `tensors` holds every input under its part name;
    /// state not given counts as its initial value. Returns outputs, and state when it is carried.
    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error>;

    /// Which algorithm the `cpu` backend takes, for people.
    #[cfg(feature = "cpu")]
    fn cpu_variant(&self) -> String;

    /// The definition, step by step, over the same inputs. Outputs and state as [`Operator::cpu`] returns them, but of
    /// outputs along the sequence only the wanted rows, as if the sequence had no others.
    ///
    /// # Panics
    /// If an input is missing or of another shape (see [`execute::check_inputs`]): it is an oracle, not an entry point.
    fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> Definition;

    /// How a parameter is drawn where that depends on settings; otherwise as the row says.
    fn draw(&self, _tensor: &str) -> Option<Draw> {
        None
    }

    /// Essential work: each input read once, each output written once.
    fn cost(&self) -> Cost;
}

/// A plan of an operator on a device: pipelines built, sizes checked.
///
/// # Errors
/// What the operator refuses, and limits of the device.
pub fn plan(ctx: &Context, operator: &dyn Operator) -> Result<Plan, Error> {
    Plan::new(ctx, operator.program(ctx.caps())?)
}

impl Op {
    /// What value the flag of that name takes, one of its own or one that several operators have; `None`: it has no such
    /// flag.
    pub fn flag(&self, name: &str) -> Option<FlagKind> {
        let own = self.flags.iter().find(|flag| flag.name == name).map(|flag| flag.kind);
        own.or(match name {
            "causal" => Some(FlagKind::Switch),
            "decode" if self.recurrent => Some(FlagKind::Switch),
            "segment" if self.recurrent => Some(FlagKind::Count),
            _ => None,
        })
    }

    /// Every kernel in every specialisation that the cases use, in both storage types: what shader validation sees.
    pub fn kernels(&self) -> Vec<(&'static Kernel, Spec)> {
        let caps = Caps { f16: true, ..Caps::portable() };
        let mut list: Vec<(&'static Kernel, Spec)> = Vec::new();
        for case in (self.cases)() {
            for dtype in [DType::F32, DType::F16] {
                let Ok(operator) = case.clone().dtype(dtype).configure(self) else { continue };
                let Ok(program) = operator.program(&caps) else { continue };
                for step in program.steps() {
                    if !list.iter().any(|(kernel, spec)| kernel.name == step.kernel.name && *spec == step.spec) {
                        list.push((step.kernel, step.spec.clone()));
                    }
                }
            }
        }
        list
    }
}

/// Every operator of this crate.
pub static OPS: &[Op] =
    &[softmax::OP, yat::OP, linformer::OP, mta::OP, linear::OP, slay::OP, ramnet::OP, ssd::OP, mamba::OP, conv1d::OP];

/// The operator that the others are set beside.
pub const YARDSTICK: &str = softmax::OP.name;

/// The row of that name.
pub fn find(name: &str) -> Option<&'static Op> {
    OPS.iter().find(|op| op.name == name)
}
