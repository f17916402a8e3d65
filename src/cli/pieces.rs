//! The summary of a piece of a sequence (`run --summary-out`): the state that its tokens make of an empty one, and their decay.

use super::finite;
use super::inputs;
use super::options::Options;
use super::reference;
use super::report::Ui;
use super::target::Target;
use crate::catalog::domain::Domain;
use crate::catalog::spec::Op;
use crate::catalog::summaries::DECAY;
use crate::error::Error;
use crate::operator::Operator;
use crate::tensor::{Access, TensorMap};
use crate::verify::tolerance::Comparison;

/// The tensors of the state among the outputs of a run, in the form of a state file.
pub(super) fn carried(operator: &dyn Operator, outputs: &TensorMap) -> TensorMap {
    let slots = operator.slots();
    let part = |name: &str| inputs::parts(&slots, Access::Update).find(|(_, part)| part.name == name);
    let tensors = outputs.iter().filter_map(|(name, tensor)| {
        let (_, part) = part(name)?;
        Some((name.to_owned(), tensor.clone().reshape(part.shape.clone()).cast(part.dtype)))
    });
    tensors.collect()
}

/// The tensors of the summary, if one is asked for, and what `--verify` found in them if they needed a run of their
/// own. `state` is the one that the run left: if it came from a state file, the piece runs again from an empty state.
pub(super) fn summary(
    op: &'static Op,
    operator: &dyn Operator,
    target: &Target,
    inputs: &TensorMap,
    state: &TensorMap,
    options: &Options,
    ui: &mut Ui,
) -> Result<(TensorMap, Vec<(String, Comparison)>), Error> {
    if options.summary_out.is_none() {
        return Ok((TensorMap::new(), Vec::new()));
    }
    let (mut own, mut verdicts) = (state.clone(), Vec::new());
    if options.state_in.is_some() {
        let slots = operator.slots();
        let given = |name: &str| inputs::parts(&slots, Access::Update).any(|(_, part)| part.name == name);
        let tokens = inputs.iter().filter(|(name, _)| !given(name));
        let tokens: TensorMap = tokens.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        let run = target.execute_shown(op.name, operator, &tokens, ui)?;
        own = carried(operator, &run.outputs);
        if options.verify {
            verdicts = reference::verify(op, operator, &tokens, &run.outputs, options, ui);
            verdicts.retain(|(name, _)| own.get(name).is_some());
        }
        for (name, tensor) in own.iter() {
            finite::check(op.name, name, (tensor, Domain::Finite), " in the summary", options.strict, ui)?;
        }
    }
    let decay = operator.log_decay(inputs)?;
    finite::check(op.name, DECAY.name, (&decay, DECAY.domain), " in the summary", options.strict, ui)?;
    own.insert(DECAY.name, decay);
    Ok((own, verdicts))
}
