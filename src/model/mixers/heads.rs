//! Mixers with queries, keys and values: projections, an optional convolution over all three, the operator, an optional norm
//! per head and gate.

use super::{Form, Mixed};
use crate::catalog::spec::{Causality, Role};
use crate::error::Error;
use crate::model::builder::{Builder, End, Wanted};
use crate::model::graph::View;
use crate::model::spec::{Layer, Positions};
use crate::ops::primitives::matmul::Activation;
use crate::ops::primitives::rope;
use crate::tensor::{Layout, Shape};

pub(super) const FORM: Form = Form {
    operators: &["softmax", "yat", "linear", "slay", "linformer", "ramnet", "mta"],
    sizes: &["heads", "kv_heads", "head_dim", "value_dim", "conv"],
    build,
};

/// Heads and their widths.
struct Sizes {
    /// H: heads of q and o.
    heads: usize,
    /// G: heads of k.
    key_heads: usize,
    /// Heads of v: G, or more.
    value_heads: usize,
    /// D: elements of q and k per head.
    dim: usize,
    /// E: elements of v per head.
    dim_v: usize,
}

impl Sizes {
    fn new(b: &Builder<'_>, layer: &Layer) -> Result<Self, Error> {
        let family = b.spec.family;
        let rows = |name: &str| -> Result<Option<usize>, Error> {
            Ok(b.shape(name)?.and_then(|shape| shape.dims().first().copied()))
        };
        let each =
            |rows: Option<usize>, heads: usize| rows.filter(|rows| rows.is_multiple_of(heads)).map(|rows| rows / heads);
        let heads = layer.sized(family, "heads", None, None)?;
        let key_heads = layer.sized(family, "kv_heads", None, Some(heads))?;
        // More heads than q has are those of v: q and k then have as many as each other.
        let (key_heads, value_heads) = (key_heads.min(heads), key_heads);
        let default = (b.spec.hidden / heads).max(1);
        let dim = layer.sized(family, "head_dim", each(rows("mixer.q.weight")?, heads), Some(default))?;
        let dim_v = layer.sized(family, "value_dim", each(rows("mixer.v.weight")?, value_heads), Some(dim))?;
        Ok(Self { heads, key_heads, value_heads, dim, dim_v })
    }

    /// Heads of o.
    fn outputs(&self) -> usize {
        self.heads.max(self.value_heads)
    }
}

/// The weights of the operator that the model has, under the operator's names. The tensors themselves say their axes, which the
/// operator compares with its others.
fn weights(b: &mut Builder<'_>, layer: &Layer) -> Result<Vec<(&'static str, View)>, Error> {
    // Those that come with the projections, and those of packed sequences, which a model has not.
    const OTHERS: [&str; 4] = ["a_log", "dt_bias", "cu_seqlens", "lengths"];
    let own = layer.op.inputs.iter().filter(|spec| spec.role == Role::Weight && !OTHERS.contains(&spec.name));
    let mut found = Vec::new();
    for spec in own {
        let name = format!("mixer.{}", spec.name);
        let Some(shape) = b.shape(&name)? else { continue };
        // A matrix over positions has room for the longest sequence.
        let along = shape.dims().last().copied().filter(|length| spec.longer && *length > b.phase.tokens);
        let tokens = b.phase.tokens;
        let view = if along.is_some() { b.cut(&name, &shape, tokens)? } else { b.weight(&name, shape)? };
        found.push((spec.name, view));
    }
    Ok(found)
}

fn build(b: &mut Builder<'_>, layer: &Layer, x: &View) -> Result<Mixed, Error> {
    let n = b.phase.tokens;
    let sizes = Sizes::new(b, layer)?;
    let Sizes { heads, key_heads, value_heads, dim, dim_v } = sizes;
    let [q, k, v] = [("mixer.q", heads * dim), ("mixer.k", key_heads * dim), ("mixer.v", value_heads * dim_v)];
    let wide = |(name, width): (&'static str, usize)| -> Wanted<'static> { (name, width, false) };

    // Numbers per token and head that only some operators have, and the gate.
    let mut others: Vec<(&'static str, &'static str, usize)> = Vec::new();
    for (tensor, name, width) in
        [("a", "mixer.a", value_heads), ("beta", "mixer.beta", value_heads), ("gamma", "mixer.gamma", heads)]
    {
        let has = layer.op.inputs.iter().any(|spec| spec.name == tensor);
        if has && b.has(&format!("{name}.weight"))? {
            others.push((tensor, name, width));
        }
    }
    let gated = b.has("mixer.z.weight")?;
    others.extend(gated.then_some(("z", "mixer.z", sizes.outputs() * dim_v)));
    let more: Vec<_> = others.iter().map(|(_, name, width)| wide((name, *width))).collect();

    let convolved = b.has("mixer.conv.weight")?;
    let (mut qkv, rest) = if convolved {
        let width = q.1 + k.1 + v.1;
        let joined = b.matmul(
            "mixer.qkv",
            (x, b.spec.hidden, false),
            &[wide(q), wide(k), wide(v)],
            &[(width, false)],
            End::default(),
        )?;
        let names = ("mixer.conv", "mixer.conv.weight", "mixer.conv.bias");
        let y = super::conv1d::convolved(b, layer, names, joined[0].shaped([1, n, width]), Layout::Bnhd, "conv.")?;
        let y = y.shaped([n, width]);
        let parts = [
            y.columns(0, [1, n, heads, dim]),
            y.columns(q.1, [1, n, key_heads, dim]),
            y.columns(q.1 + k.1, [1, n, value_heads, dim_v]),
        ];
        let rest = if more.is_empty() { Vec::new() } else { b.project("mixer.gates", x, &more)? };
        (parts, rest)
    } else {
        let all: Vec<_> = [wide(q), wide(k), wide(v)].into_iter().chain(more.iter().copied()).collect();
        let mut all = b.project("mixer.qkv", x, &all)?;
        let rest = all.split_off(3);
        let shapes = [[1, n, heads, dim], [1, n, key_heads, dim], [1, n, value_heads, dim_v]];
        let mut parts = all.iter().zip(shapes).map(|(part, shape)| part.shaped(shape));
        let mut next = || parts.next().unwrap_or_else(|| unreachable!("three projections"));
        ([next(), next(), next()], rest)
    };
    for (at, name) in [(0, "mixer.q_norm"), (1, "mixer.k_norm")] {
        if b.has(&format!("{name}.weight"))? {
            qkv[at] = b.norm_of_heads(name, qkv[at].clone(), (false, None))?;
        }
    }

    let mut flags = super::own_flags(layer);
    let mut reads = Vec::new();
    let pairwise = matches!(layer.op.name, "softmax" | "yat" | "mta");
    if pairwise {
        reads.extend(turned_and_kept(b, &mut qkv, &sizes)?);
    }
    let mut gate = None;
    for ((tensor, _, width), view) in others.iter().zip(&rest) {
        match *tensor {
            "z" => gate = Some(view.shaped([1, n, sizes.outputs(), dim_v])),
            tensor => reads.push((tensor, view.shaped([1, n, *width]))),
        }
        if *tensor == "a" {
            reads.push(("a_log", b.weight("mixer.a_log", [value_heads])?));
            reads.extend(b.optional("mixer.dt_bias", [value_heads])?.map(|bias| ("dt_bias", bias)));
        }
        if *tensor == "beta" {
            flags.set("beta-sigmoid", "true");
        }
    }
    if b.has("mixer.g.weight")? {
        let end =
            End { activation: Some(Activation::LogSigmoid), scale: Some(1.0 / layer.gate_divisor), ..End::default() };
        reads.push(("g", b.one("mixer.g", x, key_heads * dim, end)?.shaped([1, n, key_heads, dim])));
    }
    reads.extend(weights(b, layer)?);
    let [q, k, v] = qkv;
    reads.extend([("q", q), ("k", k), ("v", v)]);
    if layer.op.causal == Causality::Both && !b.spec.causal {
        flags.set("causal", "false");
    }
    let o = b.apply("mixer.mix", layer.op, &flags, Layout::Bnhd, reads, "")?.get("o");
    let o = match (b.has("mixer.norm.weight")? && layer.op.name != "mta", gate) {
        (false, None) => o,
        (false, Some(z)) => b.gated(o, z, layer.gate)?,
        (true, gate) => b.norm_of_heads("mixer.norm", o, (false, gate.map(|z| (z, layer.gate))))?,
    };
    Ok(Mixed { x: o.shaped([n, sizes.outputs() * dim_v]), columns: false, name: "mixer.o" })
}

/// Turns queries and keys by their positions, and appends keys and values to the cache if states are carried. Returns what the
/// operator then reads besides.
fn turned_and_kept(
    b: &mut Builder<'_>,
    [q, k, v]: &mut [View; 3],
    sizes: &Sizes,
) -> Result<Vec<(&'static str, View)>, Error> {
    let n = b.phase.tokens;
    let turns = match b.spec.positions {
        Positions::Rope { theta, dims } => Some(rope::Rope::new(theta, dims.unwrap_or(sizes.dim))),
        Positions::None | Positions::Learned => None,
    };
    if turns.is_none() && !b.phase.carry {
        return Ok(Vec::new());
    }
    let mut config = rope::Config::new(n, sizes.heads, sizes.key_heads, sizes.dim);
    config.dim_v = sizes.dim_v;
    config.dtype = b.phase.dtype;
    config.rope = turns;
    config.cache = b.phase.carry.then_some(b.phase.capacity);
    config.position = b.phase.carry;
    let mut reads = vec![("k", k.clone())];
    reads.extend(turns.map(|_| ("q", q.clone())));
    if b.phase.carry {
        reads.push(("v", v.clone()));
        reads.push(("position", b.position()));
    }
    let outputs = b.node("mixer.rope", Box::new(config), reads, "")?;
    if turns.is_some() {
        *q = outputs.get("q_out");
    }
    if !b.phase.carry {
        *k = outputs.get("k_out");
        return Ok(Vec::new());
    }
    let shape = |dim: usize| Shape::from([1, b.phase.capacity, sizes.key_heads, dim]);
    let (keys, values) = (shape(sizes.dim), shape(sizes.dim_v));
    *k = b.state("k_cache", keys);
    *v = b.state("v_cache", values);
    Ok(vec![("lengths", b.position())])
}
