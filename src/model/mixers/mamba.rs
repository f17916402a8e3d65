//! The block of Mamba (Gu and Dao, arXiv 2312.00752, figure 3): projection, convolution, steps and matrices from the convolved
//! input, selective scan with gate. Values run along the sequence, `[I, N]`.

use super::{Form, Mixed};
use crate::error::Error;
use crate::model::builder::{Builder, End};
use crate::model::graph::View;
use crate::model::spec::Layer;
use crate::tensor::Layout;

pub(super) const FORM: Form = Form { operators: &["mamba"], sizes: &["inner", "state", "dt_rank", "conv"], build };

fn build(b: &mut Builder<'_>, layer: &Layer, h: &View) -> Result<Mixed, Error> {
    let (n, family) = (b.phase.tokens, b.spec.family);
    let axis = |b: &Builder<'_>, name: &str, axis: usize| -> Result<Option<usize>, Error> {
        Ok(b.shape(name)?.and_then(|shape| shape.dims().get(axis).copied()))
    };
    let inner = layer.sized(family, "inner", axis(b, "mixer.a_log", 0)?, None)?;
    let states = layer.sized(family, "state", axis(b, "mixer.a_log", 1)?, None)?;
    let rank = layer.sized(family, "dt_rank", axis(b, "mixer.dt_proj.weight", 1)?, None)?;

    let both = [(inner, true), (inner, true)];
    let projected = b.matmul(
        "mixer.in_proj",
        (h, b.spec.hidden, false),
        &[("mixer.in_proj", 2 * inner, true)],
        &both,
        End::default(),
    )?;
    let [x, z] = [0, 1].map(|at| projected[at].shaped([1, inner, n]));
    let names = ("mixer.conv", "mixer.conv.weight", "mixer.conv.bias");
    let x = super::conv1d::convolved(b, layer, names, x, Layout::Bhnd, "conv.")?;
    let columns = x.shaped([inner, n]);
    let blocks = [(rank, false), (states, true), (states, true)];
    let wanted = [("mixer.x_proj", rank + 2 * states, false)];
    let shared = b.matmul("mixer.x_proj", (&columns, inner, true), &wanted, &blocks, End::default())?;
    // The bias of the steps is added inside the softplus, by the operator.
    let bias = b.weight("mixer.dt_proj.bias", [inner])?;
    let steps = [("mixer.dt_proj", inner, true)];
    let end = End { unbiased: true, ..End::default() };
    let dt = b.matmul("mixer.dt_proj", (&shared[0], rank, false), &steps, &[(inner, true)], end)?.remove(0);
    let states_of = |at: usize| shared[at].shaped([1, states, n]);
    let reads = vec![
        ("x", x),
        ("dt", dt.shaped([1, inner, n])),
        ("a_log", b.weight("mixer.a_log", [inner, states])?),
        ("b", states_of(1)),
        ("c", states_of(2)),
        ("d", b.weight("mixer.d", [inner])?),
        ("z", z),
        ("dt_bias", bias),
    ];
    let flags = super::own_flags(layer);
    let y = b.apply("mixer.scan", layer.op, &flags, Layout::Bhnd, reads, "")?.get("y");
    Ok(Mixed { x: y.shaped([inner, n]), columns: true, name: "mixer.out_proj" })
}
