//! Tensors, axes and flags shared by the rows of recurrent operators.

use super::domain::Domain;
use super::flags::{Flag, FlagKind, Flags};
use super::spec::{AxisDefault, Draw, TensorSpec};
use crate::error::Error;
use crate::operator::mode::{Direction, StateLayout};
use crate::operator::steps::Steps;
use crate::tensor::Shape;

/// Borders of packed sequences.
pub const CU_SEQLENS: TensorSpec =
    TensorSpec::weight("cu_seqlens", "seqs+1").of(Domain::Count).drawn(Draw::Borders("N"));

/// Number of packed sequences, with its default in a random input.
pub const SEQUENCES: (&str, AxisDefault) = ("seqs", AxisDefault::Length(4));

/// Draws logarithms of rates of 1 and more, the range that models start with.
pub fn log_rates(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|a| *a = a.abs().ln_1p());
}

/// Draws biases for which softplus gives steps around 0.01, the range that models start with.
pub fn short_steps(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|bias| *bias = (0.01 * bias.exp()).exp_m1().ln());
}

/// How steps follow from dt.
pub const STEPS: [Flag; 4] = [
    Flag { name: "dt-softplus", kind: FlagKind::Switch, help: "Apply softplus to dt [default: on]" },
    Flag { name: "dt-min", kind: FlagKind::Number, help: "Smallest step, after softplus and offset [default: none]" },
    Flag { name: "dt-max", kind: FlagKind::Number, help: "Largest step, after softplus and offset [default: none]" },
    Flag {
        name: "dt-offset",
        kind: FlagKind::Number,
        help: "Number added to the steps after softplus, before they are limited [default: 0]",
    },
];

/// The steps that these flags say.
///
/// # Errors
/// One sentence that names a flag whose value is no number.
pub fn steps(op: &'static str, flags: &Flags) -> Result<Steps, Error> {
    Ok(Steps {
        softplus: flags.switch("dt-softplus").unwrap_or(true),
        offset: flags.number(op, "dt-offset")?.unwrap_or(0.0),
        min: flags.number(op, "dt-min")?,
        max: flags.number(op, "dt-max")?,
    })
}

/// The order of the tokens.
pub const DIRECTION: Flag = Flag {
    name: "direction",
    kind: FlagKind::Choice(Direction::WORDS),
    help: "backward: from the last token to the first; both: the sum of the two runs [default: forward]",
};

/// The order of the axes of the state.
pub const STATE_LAYOUT: Flag = Flag {
    name: "state-layout",
    kind: FlagKind::Choice(StateLayout::WORDS),
    help: "Order of the last two axes of `state` in both state files; ed exchanges them [default: de]",
};
