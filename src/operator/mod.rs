//! The interface between an operator and the rest of the crate: its tensors, its GPU program, its `cpu` backend and its
//! reference.
//!
//! The module of an operator provides a type for its settings, `Config`, and one constant, [`Configured::ALGORITHM`].
//! The code here builds everything else from these two: validation, plans, runs and the [`Operator`] trait object.

pub mod channels;
mod composed;
pub mod mode;
pub mod pairs;
mod plan;
#[doc(hidden)]
pub mod progress;
pub mod qkv;
pub mod short_conv;
pub mod steps;

use std::fmt::Debug;

#[cfg(feature = "cpu")]
use crate::cpu::memory;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Program};
use crate::operator::mode::Mode;
use crate::tensor::{Access, DType, HostTensor, Slot, Tensor, TensorMap, Values};

pub(crate) use composed::check_borders;
pub(crate) use plan::named;
pub use plan::{Plan, compile};

/// Precision of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision. It shows the rounding error of the definition itself in f32.
    F32,
    /// Double precision. Results are compared with it.
    F64,
}

/// Outputs of the reference by name. The values are f64 even if they were computed in f32.
pub type ReferenceOutputs = Vec<(&'static str, Vec<f64>)>;

/// Computes the reference outputs of a configuration for the given rows.
pub type ReferenceFn<C> = fn(&C, &TensorMap, Rows<'_>) -> ReferenceOutputs;

/// What the numbers of a carried state mean. A run may only go on from a state of the same basis.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StateBasis {
    /// Settings, by the names of their flags.
    pub settings: Vec<(&'static str, String)>,
    /// Names of the weights that define the features which a state sums.
    pub weights: &'static [&'static str],
}

/// Computes the logarithm of the decay that the tokens of a run apply to any state that enters it, from the inputs as stored.
/// The result has the axes of the state; an axis along which the decay is the same has length 1.
pub type LogDecayFn<C> = fn(&C, &TensorMap) -> HostTensor;

/// The functions that define an operator, as data. See [`Configured`].
#[derive(Debug)]
pub struct Algorithm<C> {
    /// Name: one snake_case word.
    pub name: &'static str,
    /// Checks the settings on their own. Every entry point of the library calls this function.
    pub validate: fn(&C) -> Result<(), Error>,
    /// Lists every tensor with its exact shape and storage type.
    pub slots: fn(&C) -> Vec<Slot>,
    /// Minimum work of one run: each input is read once and each output is written once.
    pub cost: fn(&C) -> Cost,
    /// Builds the dispatches for a GPU with these capabilities.
    pub program: fn(&C, &Caps) -> Result<Program, Error>,
    /// The definition, computed step by step, in f32 and in f64 (indexed by [`Precision`]).
    pub reference: [ReferenceFn<C>; 2],
    /// The `cpu` backend.
    #[cfg(feature = "cpu")]
    pub cpu: CpuBackend<C>,
}

/// The `cpu` backend of an operator: f32 on all threads of the current rayon pool.
#[cfg(feature = "cpu")]
#[derive(Debug)]
pub struct CpuBackend<C> {
    /// Computes the outputs, and the state if one is carried. The inputs have been checked.
    pub run: fn(&C, &TensorMap) -> TensorMap,
    /// The same in place, for an operator that has this form: see [`Operator::cpu_update`]. Returns whether it took the run; if
    /// not, it leaves the map as it was, and `run` follows. Runs that are composed of several are never given to it.
    pub update: Option<fn(&C, &mut TensorMap) -> bool>,
    /// Whether `run` takes every [`Direction`](mode::Direction) along a single sequence by itself. Otherwise backward runs are composed
    /// of forward ones.
    pub directed: bool,
    /// Describes the chosen algorithm for people.
    pub variant: fn(&C) -> String,
}

#[cfg(feature = "cpu")]
impl<C> CpuBackend<C> {
    /// A backend without a form of its own for runs in place.
    pub const fn new(run: fn(&C, &TensorMap) -> TensorMap, variant: fn(&C) -> String) -> Self {
        Self { run, update: None, directed: false, variant }
    }

    /// Adds the form for runs in place.
    #[must_use]
    pub const fn in_place(self, update: fn(&C, &mut TensorMap) -> bool) -> Self {
        Self { update: Some(update), ..self }
    }

    /// Says that `run` takes every direction.
    #[must_use]
    pub const fn in_every_direction(self) -> Self {
        Self { directed: true, ..self }
    }
}

/// The settings and shape of an operator. Each operator's `Config` implements it.
pub trait Configured: Debug + Clone + Send + Sync + Sized + 'static {
    /// The tensors that a plan of this operator binds.
    type Tensors<'a>: Into<Bound<'a>>;

    /// The functions that define the operator.
    const ALGORITHM: Algorithm<Self>;

    /// How it runs along the sequence: by default, as an operator does that has no such settings.
    fn mode(&self) -> Mode {
        Mode::new()
    }

    /// The same settings in the mode [`Mode::plain`], for sequences of this length and storage type. Runs of packed
    /// sequences, backward runs and states with their axes exchanged are composed of such runs by the `cpu` backend and the
    /// reference. Only an operator that has these settings is asked.
    #[must_use]
    fn plain(&self, _length: usize, _dtype: DType) -> Self {
        self.clone()
    }

    /// What the numbers of its state depend on: by default, on nothing but the operator.
    fn state_basis(&self) -> StateBasis {
        StateBasis::default()
    }

    /// Number of elements of the state that a run holds, whether or not it is carried: by default, none.
    fn state_elements(&self) -> u64 {
        0
    }

    /// How the state that enters a run decays, if that and the run's own state tell all that the run does to it. By default no
    /// run can be summarised in this way.
    ///
    /// # Errors
    /// [`Error::Setting`] or [`Error::Tensor`], which says why there is no summary.
    fn log_decay(&self) -> Result<LogDecayFn<Self>, Error> {
        Err(no_summary(Self::ALGORITHM.name))
    }

    /// Refuses inputs for which f32 has no result: by default none. Plans on a GPU do not see the values.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    fn check_values(&self, _tensors: &TensorMap) -> Result<(), Error> {
        Ok(())
    }
}

/// Says that an operator has no summaries.
fn no_summary(op: &'static str) -> Error {
    Error::rule(op, "decay", " is needed for a summary of a piece of a sequence, and this operator has none")
}

/// Tensors, each with the name of its slot.
pub type Bound<'a> = Vec<(&'static str, &'a Tensor)>;

/// An operator with its settings and shape, usable on any backend without knowing its type. Every [`Configured`] type
/// implements it.
pub trait Operator: Debug + Send + Sync {
    /// Name of the operator.
    fn name(&self) -> &'static str;

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    fn validate(&self) -> Result<(), Error>;

    /// Lists every tensor with its exact shape and storage type. Tensors with [`Access::Update`] are the state.
    fn slots(&self) -> Vec<Slot>;

    /// Number of elements of all tensors; saturates.
    fn elements(&self) -> u64 {
        self.slots().iter().map(|slot| slot.checked_count().unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
    }

    /// Minimum work of one run: each input is read once and each output is written once.
    fn cost(&self) -> Cost;

    /// What the numbers of its state depend on.
    fn state_basis(&self) -> StateBasis {
        StateBasis::default()
    }

    /// Number of elements of the state that a run on the host holds, whether or not it is carried.
    fn state_elements(&self) -> u64 {
        0
    }

    /// Refuses settings under which a piece of a sequence has no summary: its own state and its decay.
    ///
    /// # Errors
    /// The errors of [`Configured::log_decay`].
    fn check_summary(&self) -> Result<(), Error> {
        Err(no_summary(self.name()))
    }

    /// The logarithm of the decay that a run applies to any state that enters it: see [`LogDecayFn`]. `tensors` holds every
    /// input by name.
    ///
    /// # Errors
    /// The errors of [`Operator::check_summary`].
    fn log_decay(&self, _tensors: &TensorMap) -> Result<HostTensor, Error> {
        Err(no_summary(self.name()))
    }

    /// Refuses outputs, and a state that is held on the host, that do not fit into the memory that the machine has left.
    ///
    /// # Errors
    /// [`Error::Memory`].
    #[cfg(feature = "cpu")]
    fn check_memory(&self, holds_state: bool) -> Result<(), Error> {
        memory::check(self.name(), &self.slots(), if holds_state { self.state_elements() } else { 0 })
    }

    /// Refuses inputs for which f32 has no result, whatever the backend.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    fn check_values(&self, _tensors: &TensorMap) -> Result<(), Error> {
        Ok(())
    }

    /// Builds the dispatches for a GPU with these capabilities.
    ///
    /// # Errors
    /// Settings that contradict each other, or a limit of the device that is exceeded.
    fn program(&self, caps: &Caps) -> Result<Program, Error>;

    /// Computes the definition step by step from the same inputs. Outputs and state have the same names as those of
    /// [`Operator::cpu`]. Outputs along the sequence contain only the requested rows, packed together.
    ///
    /// # Panics
    /// If an input is missing or has another shape: call [`check_inputs`] first.
    fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> ReferenceOutputs;

    /// Runs the `cpu` backend. `tensors` holds every input by name; a state that is not given starts from its initial
    /// value. Returns the outputs, and the state if one is carried.
    ///
    /// # Errors
    /// Settings that contradict each other, or inputs that do not match the slots.
    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error>;

    /// Runs the `cpu` backend on tensors in a map and leaves the outputs, and the new state if one is carried, in it. An
    /// operator that has this form overwrites outputs that are already there with their shape and storage type, and a state in
    /// its place. So the steps of a loop allocate nothing. Others insert what [`Operator::cpu`] returns.
    ///
    /// # Errors
    /// The errors of [`Operator::cpu`]. The map is then as it was, unless memory ran out during the run.
    #[cfg(feature = "cpu")]
    fn cpu_update(&self, tensors: &mut TensorMap) -> Result<(), Error> {
        insert_all(tensors, self.cpu(tensors)?);
        Ok(())
    }

    /// Describes the algorithm that the `cpu` backend uses, for people.
    #[cfg(feature = "cpu")]
    fn cpu_variant(&self) -> String;
}

impl<C: Configured> Operator for C {
    fn name(&self) -> &'static str {
        C::ALGORITHM.name
    }

    fn validate(&self) -> Result<(), Error> {
        (C::ALGORITHM.validate)(self)
    }

    fn slots(&self) -> Vec<Slot> {
        (C::ALGORITHM.slots)(self)
    }

    fn cost(&self) -> Cost {
        (C::ALGORITHM.cost)(self)
    }

    fn state_basis(&self) -> StateBasis {
        Configured::state_basis(self)
    }

    fn state_elements(&self) -> u64 {
        Configured::state_elements(self)
    }

    fn check_summary(&self) -> Result<(), Error> {
        Configured::log_decay(self).map(drop)
    }

    fn log_decay(&self, tensors: &TensorMap) -> Result<HostTensor, Error> {
        Ok(composed::log_decay(self, tensors, Configured::log_decay(self)?))
    }

    fn check_values(&self, tensors: &TensorMap) -> Result<(), Error> {
        composed::check_mode(self, tensors)?;
        Configured::check_values(self, tensors)
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        self.validate()?;
        (C::ALGORITHM.program)(self, caps)
    }

    fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> ReferenceOutputs {
        composed::reference(self, tensors, precision, rows)
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error> {
        self.validate()?;
        check_inputs(C::ALGORITHM.name, &self.slots(), tensors)?;
        Operator::check_values(self, tensors)?;
        self.check_memory(true)?;
        memory::guarded(C::ALGORITHM.name, || composed::cpu(self, tensors))
    }

    #[cfg(feature = "cpu")]
    fn cpu_update(&self, tensors: &mut TensorMap) -> Result<(), Error> {
        let name = C::ALGORITHM.name;
        let Some(update) = C::ALGORITHM.cpu.update.filter(|_| !self.mode().is_composed()) else {
            insert_all(tensors, self.cpu(tensors)?);
            return Ok(());
        };
        self.validate()?;
        let slots = self.slots();
        check_inputs(name, &slots, tensors)?;
        Operator::check_values(self, tensors)?;
        // What is there already needs no memory.
        let written = slots.iter().filter(|slot| slot.access != Access::Read).flat_map(|slot| &slot.parts);
        if written.into_iter().any(|part| tensors.get(part.name).is_none()) {
            self.check_memory(true)?;
        }
        memory::guarded(name, || {
            if !update(self, tensors) {
                insert_all(tensors, (C::ALGORITHM.cpu.run)(self, tensors));
            }
        })
    }

    #[cfg(feature = "cpu")]
    fn cpu_variant(&self) -> String {
        (C::ALGORITHM.cpu.variant)(self) + &self.mode().told()
    }
}

/// Puts outputs into the map of the inputs.
#[cfg(feature = "cpu")]
fn insert_all(tensors: &mut TensorMap, outputs: TensorMap) {
    outputs.into_iter().for_each(|(name, tensor)| tensors.insert(name, tensor));
}

/// Declares the struct of tensors that a plan binds. Each field has the name of its slot. `required` lists the tensors
/// of every configuration, `optional` those of only some.
macro_rules! tensors {
    (
        $(#[$meta:meta])*
        required { $($(#[$required_meta:meta])* $required:ident),+ $(,)? }
        optional { $($(#[$optional_meta:meta])* $optional:ident),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub struct Tensors<'a> {
            $($(#[$required_meta])* pub $required: &'a $crate::tensor::Tensor,)+
            $($(#[$optional_meta])* pub $optional: Option<&'a $crate::tensor::Tensor>,)*
        }

        impl Config {
            /// Checks settings and sizes on a device, and builds the pipelines.
            ///
            /// # Errors
            /// What the operator refuses, in one sentence; [`Error::Limit`]($crate::error::Error::Limit) with both numbers if
            /// something does not fit the device.
            pub fn plan(&self, ctx: &$crate::gpu::Context) -> Result<$crate::operator::Plan<Self>, $crate::error::Error> {
                $crate::operator::Plan::new(ctx, self.clone())
            }
        }

        impl<'a> Tensors<'a> {
            /// Sets the tensors that every configuration needs. The optional ones are public fields, initially `None`.
            pub fn new($($required: &'a $crate::tensor::Tensor),+) -> Self {
                Self { $($required,)+ $($optional: None,)* }
            }
        }

        impl<'a> From<Tensors<'a>> for $crate::operator::Bound<'a> {
            fn from(tensors: Tensors<'a>) -> Self {
                let required = [$((stringify!($required), tensors.$required)),+];
                let optional: [(&'static str, Option<&'a $crate::tensor::Tensor>); _] =
                    [$((stringify!($optional), tensors.$optional)),*];
                let given = optional.into_iter().filter_map(|(name, tensor)| Some((name, tensor?)));
                required.into_iter().chain(given).collect()
            }
        }
    };
}
pub(crate) use tensors;

/// A configuration whose small weights share one buffer, the slot [`Weighted::SLOT`].
pub trait Weighted: Configured {
    /// Name of the slot.
    const SLOT: &'static str;

    /// The weights by name.
    type Weights<'a>: Into<Slices<'a>>;
}

/// Host slices, each with the name of its tensor.
pub type Slices<'a> = Vec<(&'static str, &'a [f32])>;

/// Declares the weights that share the slot of that name. The settings decide which of them a configuration has.
macro_rules! weights {
    ($slot:literal: $($(#[$field_meta:meta])* $field:ident),+ $(,)?) => {
        /// Weights on the host, by name.
        #[derive(Debug, Clone, Copy, Default)]
        pub struct Weights<'a> {
            $($(#[$field_meta])* pub $field: Option<&'a [f32]>,)+
        }

        impl<'a> From<Weights<'a>> for $crate::operator::Slices<'a> {
            fn from(weights: Weights<'a>) -> Self {
                let all = [$((stringify!($field), weights.$field)),+];
                all.into_iter().filter_map(|(name, values)| Some((name, values?))).collect()
            }
        }

        impl $crate::operator::Weighted for Config {
            const SLOT: &'static str = $slot;

            type Weights<'a> = Weights<'a>;
        }
    };
}
pub(crate) use weights;

/// The positions along the length N for which a reference computes outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows<'a> {
    /// Every position.
    All,
    /// The given positions, in ascending order.
    At(&'a [usize]),
}

impl Rows<'_> {
    /// The selected positions of a sequence of length `len`.
    pub fn of(&self, len: usize) -> Vec<usize> {
        match self {
            Rows::All => (0..len).collect(),
            Rows::At(positions) => positions.to_vec(),
        }
    }
}

/// Checks that `tensors` holds every input of the slots with its shape and storage type, and that counts are not
/// negative. State may be absent.
///
/// # Errors
/// [`Error::Missing`] or [`Error::Tensor`].
pub fn check_inputs(op: &'static str, slots: &[Slot], tensors: &TensorMap) -> Result<(), Error> {
    for slot in slots.iter().filter(|slot| slot.access != Access::Write) {
        for part in &slot.parts {
            let expected = || format!("{} {}", part.dtype, part.shape);
            match tensors.get(part.name) {
                Some(tensor) if *tensor.shape() == part.shape && tensor.dtype() == part.dtype => {
                    check_counts(op, part.name, tensor)?;
                }
                Some(tensor) => {
                    let found = format!("{} {}", tensor.dtype(), tensor.shape());
                    return Err(Error::tensor(op, part.name, expected(), found));
                }
                None if slot.access == Access::Update => {}
                None => {
                    let (tensor, expected) = (part.name.into(), expected());
                    return Err(Error::Missing { op, tensor, expected, given: tensors.names() });
                }
            }
        }
    }
    Ok(())
}

/// Refuses negative counts (`position`).
fn check_counts(op: &'static str, name: &str, tensor: &HostTensor) -> Result<(), Error> {
    match tensor.values() {
        Values::I64(counts) => match counts.iter().find(|count| **count < 0) {
            Some(count) => Err(Error::tensor(op, name, "a whole number of 0 or more", count.to_string())),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}
