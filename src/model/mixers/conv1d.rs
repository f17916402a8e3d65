//! A convolution along the sequence as a mixer: over the channels of the residual stream, then a projection.

use super::{Form, Mixed};
use crate::catalog::flags::Flags;
use crate::catalog::spec::Op;
use crate::error::Error;
use crate::model::builder::Builder;
use crate::model::graph::View;
use crate::model::spec::Layer;
use crate::tensor::Layout;

pub(super) const FORM: Form = Form { operators: &["conv1d"], sizes: &["conv"], build };

fn build(b: &mut Builder<'_>, layer: &Layer, x: &View) -> Result<Mixed, Error> {
    let (n, d) = (b.phase.tokens, b.spec.hidden);
    let y = convolved(b, layer, ("mixer", "mixer.weight", "mixer.bias"), x.shaped([1, n, d]), Layout::Bnhd, "")?;
    Ok(Mixed { x: y.shaped([n, d]), columns: false, name: "mixer.o" })
}

/// The convolution of x `[1, N, C]` (layout bnhd) or `[1, C, N]`, with the label of the node and the names of its tensors.
pub(super) fn convolved(
    b: &mut Builder<'_>,
    layer: &Layer,
    (label, weight, bias): (&str, &str, &str),
    x: View,
    layout: Layout,
    state: &str,
) -> Result<View, Error> {
    let channels = x.shape.dims()[if layout == Layout::Bnhd { 2 } else { 1 }];
    let (op, flags, width) = settings(b, layer, weight)?;
    let mut reads = vec![("x", x), ("weight", b.weight(weight, [channels, 1, width])?)];
    reads.extend(b.optional(bias, [channels])?.map(|bias| ("bias", bias)));
    Ok(b.apply(label, op, &flags, layout, reads, state)?.get("y"))
}

/// The operator, its flags and the width of a layer's convolution, whose weight has this name.
fn settings(b: &Builder<'_>, layer: &Layer, weight: &str) -> Result<(&'static Op, Flags, usize), Error> {
    let found = b.shape(weight)?.and_then(|shape| shape.dims().last().copied());
    let width = layer.sized(b.spec.family, "conv", found, Some(4))?;
    let op = super::operator("conv1d");
    // A mixer with a convolution has the settings of its own operator, not those of the convolution, but for the padding.
    let mut flags = Flags::new();
    for (name, value) in layer.flags.iter().filter(|(name, _)| op.flags.iter().any(|flag| flag.name == *name)) {
        flags.set(name, value);
    }
    Ok((op, flags, width))
}

/// What an operator reads that convolves its inputs `[1, 1, C]` in the dispatch of its step, under the operator's names;
/// sets its flags. `None` if the run is not one token from a state, or if the convolution has a dilation, which such
/// operators have not.
pub(super) fn within(
    b: &mut Builder<'_>,
    layer: &Layer,
    (weight, bias): (&str, &str),
    channels: usize,
    own: &mut Flags,
) -> Result<Option<Vec<(&'static str, View)>>, Error> {
    let (_, flags, width) = settings(b, layer, weight)?;
    let decodes = b.phase.fused && b.phase.carry && b.phase.tokens == 1;
    if !decodes || flags.word("dilation").is_some() || flags.word("padding") == Some("same") {
        return Ok(None);
    }
    if let Some(activation) = flags.word("activation") {
        own.set("conv-activation", activation);
    }
    let mut reads = vec![("conv_weight", b.weight(weight, [channels, width])?)];
    reads.extend(b.optional(bias, [channels])?.map(|bias| ("conv_bias", bias)));
    Ok(Some(reads))
}
