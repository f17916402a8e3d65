//! A convolution along the sequence as a mixer: over the channels of the residual stream, then a projection.

use super::{Form, Mixed};
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
    let found = b.shape(weight)?.and_then(|shape| shape.dims().last().copied());
    let width = layer.sized(b.spec.family, "conv", found, Some(4))?;
    let op = super::operator("conv1d");
    // A mixer with a convolution has the settings of its own operator, not those of the convolution, but for the padding.
    let mut flags = crate::catalog::flags::Flags::new();
    for (name, value) in layer.flags.iter().filter(|(name, _)| op.flags.iter().any(|flag| flag.name == *name)) {
        flags.set(name, value);
    }
    let mut reads = vec![("x", x), ("weight", b.weight(weight, [channels, 1, width])?)];
    reads.extend(b.optional(bias, [channels])?.map(|bias| ("bias", bias)));
    Ok(b.apply(label, op, &flags, layout, reads, state)?.get("y"))
}
