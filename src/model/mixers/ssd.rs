//! The block of Mamba-2 (Dao and Gu, arXiv 2405.21060, section 7): one projection, a convolution over x, B and C, the scan with
//! its gate, a norm over the channels of a group.

use super::{Form, Mixed};
use crate::error::Error;
use crate::model::builder::{Builder, End};
use crate::model::graph::View;
use crate::model::spec::Layer;
use crate::tensor::Layout;

pub(super) const FORM: Form =
    Form { operators: &["ssd"], sizes: &["heads", "head_dim", "state", "groups", "conv"], build };

fn build(b: &mut Builder<'_>, layer: &Layer, h: &View) -> Result<Mixed, Error> {
    let (n, family) = (b.phase.tokens, b.spec.family);
    let length = |b: &Builder<'_>, name: &str| -> Result<Option<usize>, Error> {
        Ok(b.shape(name)?.and_then(|shape| shape.dims().first().copied()))
    };
    let heads = layer.sized(family, "heads", length(b, "mixer.a_log")?, None)?;
    let of_norm =
        length(b, "mixer.norm.weight")?.filter(|inner| inner.is_multiple_of(heads)).map(|inner| inner / heads);
    let dim = layer.sized(family, "head_dim", of_norm, None)?;
    let inner = heads * dim;
    let groups = layer.sized(family, "groups", None, Some(1))?;
    let mixed = length(b, "mixer.conv.weight")?;
    let of_conv = mixed.and_then(|mixed| mixed.checked_sub(inner)).filter(|own| own.is_multiple_of(2 * groups));
    let states = layer.sized(family, "state", of_conv.map(|own| own / (2 * groups)), None)?;
    let shared = groups * states;
    let mixed = inner + 2 * shared;
    if !inner.is_multiple_of(groups) {
        return Err(Error::setting(family, "groups", format!("a number that divides {inner}"), groups.to_string()));
    }

    let blocks = [(inner, false), (mixed, false), (heads, false)];
    let wanted = [("mixer.in_proj", inner + mixed + heads, false)];
    let projected = b.matmul("mixer.in_proj", (h, b.spec.hidden, false), &wanted, &blocks, End::default())?;
    let mut flags = super::own_flags(layer);
    let names = ("mixer.conv", "mixer.conv.weight", "mixer.conv.bias");
    let vectors = [(0, [1, n, heads, dim]), (inner, [1, n, groups, states]), (inner + shared, [1, n, groups, states])];
    let within = super::conv1d::within(b, layer, (names.1, names.2), mixed, &mut flags)?;
    let [x, own_b, own_c] = if within.is_some() {
        vectors.map(|(first, shape)| projected[1].part(first, shape))
    } else {
        let convolved = projected[1].shaped([1, n, mixed]);
        let convolved = super::conv1d::convolved(b, layer, names, convolved, Layout::Bnhd, "conv.")?.shaped([n, mixed]);
        vectors.map(|(first, shape)| convolved.columns(first, shape))
    };
    let mut reads = vec![
        ("x", x),
        ("dt", projected[2].shaped([1, n, heads])),
        ("a_log", b.weight("mixer.a_log", [heads])?),
        ("b", own_b),
        ("c", own_c),
        ("d", b.weight("mixer.d", [heads])?),
        ("z", projected[0].shaped([1, n, heads, dim])),
        ("dt_bias", b.weight("mixer.dt_bias", [heads])?),
    ];
    reads.extend(within.into_iter().flatten());
    let y = b.apply("mixer.scan", layer.op, &flags, Layout::Bnhd, reads, "")?.get("y");
    let y = b.norm_of_heads("mixer.norm", y.shaped([1, n, groups, inner / groups]), (true, None))?;
    Ok(Mixed { x: y.shaped([n, inner]), columns: false, name: "mixer.out_proj" })
}
