//! Builds the graph of a model for a number of tokens, block by block. It asks for weights by the names of our own form, and so
//! also finds out which tensors a model has.

use super::families::Names;
use super::graph::{Graph, Home, Node, Piece, View};
use super::spec::{Gate, Layer, MlpKind, Norm, Positions, Spec};
use super::weights::Weights;
use crate::catalog::flags::Flags;
use crate::catalog::request::Request;
use crate::catalog::spec::Op;
use crate::error::Error;
use crate::operator::Operator;
use crate::ops::primitives::{Tokens, embedding, gated_norm, matmul};
use crate::tensor::{Access, DType, Layout, Shape};

/// What a graph is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Phase {
    /// N: tokens of a run.
    pub tokens: usize,
    /// Whether states are carried from run to run.
    pub carry: bool,
    /// Positions that a cache of keys and values has room for, if states are carried.
    pub capacity: usize,
    /// Whether the graph ends with logits.
    pub head: bool,
    /// Storage type of activations, and of the weights of products where it is f16.
    pub dtype: DType,
    /// Whether products with one input are one product, whose weights then lie in one buffer, and whether decoding a token
    /// takes a convolution in the dispatch of the step behind it.
    pub fused: bool,
}

/// A graph that is being built.
pub(crate) struct Builder<'m> {
    pub spec: &'m Spec,
    pub phase: Phase,
    names: &'m Names,
    weights: &'m Weights,
    graph: Graph,
    /// What names begin with: `layers.3.`.
    prefix: String,
}

/// The tensors that a node writes, by name.
pub(crate) struct Outputs(Vec<(&'static str, View)>);

impl Outputs {
    /// The tensor of that name. The operator declares it, so it is there.
    pub(crate) fn get(&self, name: &str) -> View {
        let found = self.0.iter().find(|(own, _)| *own == name);
        found.map_or_else(|| unreachable!("no output {name}"), |(_, view)| view.clone())
    }
}

/// How a product ends: `o = residual + scale act(x w^T) times`.
#[derive(Default)]
pub(crate) struct End<'v> {
    pub activation: Option<matmul::Activation>,
    pub times: Option<&'v View>,
    pub residual: Option<&'v View>,
    pub scale: Option<f32>,
    /// Whether a bias is left to what follows.
    pub unbiased: bool,
}

/// Rows of a weight with one input: the name without `.weight`, the number of rows, and whether their outputs are `[M, N]`.
pub(crate) type Wanted<'n> = (&'n str, usize, bool);

impl<'m> Builder<'m> {
    pub(crate) fn new(spec: &'m Spec, names: &'m Names, weights: &'m Weights, phase: Phase) -> Self {
        Self { spec, phase, names, weights, graph: Graph::default(), prefix: String::new() }
    }

    /// Builds the graph of the whole model.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape, by its name in the files; the errors of the operators.
    pub(crate) fn build(mut self) -> Result<Graph, Error> {
        let spec = self.spec;
        let mut h = self.embed()?;
        for (at, layer) in spec.layers.iter().enumerate() {
            self.prefix = format!("layers.{at}.");
            h = self.layer(layer, h)?;
        }
        self.prefix = String::new();
        if self.phase.head {
            let h = self.norm("norm", &h)?;
            let width = spec.head.width(spec.vocab);
            let name = if spec.tied { "embed" } else { "head" };
            let end = End { scale: Some(spec.logits_scale), ..End::default() };
            let logits = self.product("head", &h, &[(name, width, false)], end)?;
            self.graph.logits = logits.first().map(|logits| logits.id);
        }
        Ok(self.graph)
    }

    fn embed(&mut self) -> Result<View, Error> {
        let (spec, n) = (self.spec, self.phase.tokens);
        let (table, table_dtype) = self.stored(&["embed.weight"], [spec.vocab, spec.hidden])?;
        let tokens = self.graph.value(Home::Tokens, [n], DType::I32);
        let mut config = embedding::Config::new(n, spec.vocab, spec.hidden);
        config.table_dtype = table_dtype;
        config.dtype = self.phase.dtype;
        config.scale = spec.embed_scale;
        config.carry = self.phase.carry;
        let mut reads = vec![("index", tokens), ("table", table)];
        if let (Positions::Learned, Some(max_len)) = (spec.positions, spec.max_len) {
            config.positions = Some(max_len);
            reads.push(("positions", self.weight("positions.weight", [max_len, spec.hidden])?));
        }
        Ok(self.node("embed", Box::new(config), reads, "")?.get("o"))
    }

    fn layer(&mut self, layer: &Layer, h: View) -> Result<View, Error> {
        let x = self.norm("norm1", &h)?;
        let mixed = super::mixers::build(self, layer, &x)?;
        let h = self.residual(mixed.name, &mixed.x, mixed.columns, &h)?;
        let Some(mlp) = self.spec.mlp else { return Ok(h) };
        let x = self.norm("norm2", &h)?;
        let hidden = match mlp.kind {
            MlpKind::Swiglu => {
                let up = self.one("mlp.up", &x, mlp.hidden, End::default())?;
                let silu = Some(matmul::Activation::Silu);
                self.one("mlp.gate", &x, mlp.hidden, End { activation: silu, times: Some(&up), ..End::default() })?
            }
            MlpKind::Gelu => {
                let gelu = Some(matmul::Activation::Gelu);
                self.one("mlp.up", &x, mlp.hidden, End { activation: gelu, ..End::default() })?
            }
        };
        self.residual("mlp.down", &hidden, false, &h)
    }

    // ---- weights ----

    /// Whether the model has this tensor, or must have it.
    pub(crate) fn has(&self, name: &str) -> Result<bool, Error> {
        if self.names.strict {
            return Ok((self.names.source)(&self.full(name)).is_some());
        }
        Ok(self.shape(name)?.is_some())
    }

    /// Shape of this tensor, if the model has it.
    pub(crate) fn shape(&self, name: &str) -> Result<Option<Shape>, Error> {
        Ok(self.head(name)?.map(|(_, shape)| shape))
    }

    fn head(&self, name: &str) -> Result<Option<(DType, Shape)>, Error> {
        match (self.names.source)(&self.full(name)) {
            Some(source) => self.weights.find(&source),
            None => Ok(None),
        }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Checks that the model has this tensor with this shape, and returns its storage type.
    fn check(&self, name: &str, shape: &Shape) -> Result<DType, Error> {
        let full = self.full(name);
        let named = (self.names.source)(&full).map_or(full, |source| source.tensor);
        let op = self.spec.family;
        match self.head(name)? {
            None => {
                let given = "see `subquad inspect` for what the files hold".into();
                Err(Error::Missing { op, tensor: named, expected: shape.to_string(), given })
            }
            Some((dtype, _)) if !dtype.is_float() => Err(Error::tensor(op, named, "numbers", dtype.name())),
            // Axes of length 1 say nothing.
            Some((dtype, found)) if squeezed(&found) == squeezed(shape) => Ok(dtype),
            Some((_, found)) => Err(Error::tensor(op, named, shape.to_string(), found.to_string())),
        }
    }

    /// A weight in f32.
    pub(crate) fn weight(&mut self, name: &str, shape: impl Into<Shape>) -> Result<View, Error> {
        let shape = shape.into();
        self.check(name, &shape)?;
        let home = Home::Weight(vec![Piece::Named(self.full(name))]);
        Ok(self.graph.value(home, shape, DType::F32))
    }

    /// A weight in f32, of whose last axis only so many elements are used.
    pub(crate) fn cut(&mut self, name: &str, shape: &Shape, length: usize) -> Result<View, Error> {
        self.check(name, shape)?;
        let mut dims = shape.dims().to_vec();
        dims.iter_mut().last().into_iter().for_each(|last| *last = length);
        let home = Home::Weight(vec![Piece::Cut(self.full(name), length)]);
        Ok(self.graph.value(home, dims, DType::F32))
    }

    /// A weight in f32, if the model has it.
    pub(crate) fn optional(&mut self, name: &str, shape: impl Into<Shape>) -> Result<Option<View>, Error> {
        if self.has(name)? { self.weight(name, shape).map(Some) } else { Ok(None) }
    }

    /// A matrix of the tensors of these names, one below another, in the storage type of the files; in f16 if activations are.
    fn stored(&mut self, names: &[&str], shape: [usize; 2]) -> Result<(View, DType), Error> {
        let mut dtype = DType::F16;
        for name in names {
            let own = match names {
                [_] => shape.into(),
                // Several tensors have the rows that they have; the caller has asked for their sum.
                _ => self.shape(name)?.unwrap_or_else(|| shape.into()),
            };
            let found = self.check(name, &own)?;
            dtype = if found == DType::F16 { dtype } else { DType::F32 };
        }
        if self.phase.dtype == DType::F16 {
            dtype = DType::F16;
        }
        let pieces = names.iter().map(|name| Piece::Named(self.full(name))).collect();
        Ok((self.graph.value(Home::Weight(pieces), shape, dtype), dtype))
    }

    // ---- nodes ----

    /// Adds an operator. `state` is what the names of its states have behind the layer: `conv.`.
    pub(crate) fn node(
        &mut self,
        label: &str,
        operator: Box<dyn Operator>,
        reads: Vec<(&'static str, View)>,
        state: &str,
    ) -> Result<Outputs, Error> {
        operator.validate()?;
        let (mut writes, mut outputs) = (Vec::new(), Vec::new());
        for slot in operator.slots().iter().filter(|slot| slot.access == Access::Write) {
            for part in &slot.parts {
                let view = self.graph.value(Home::Made, part.shape.clone(), part.dtype);
                writes.push((part.name, view.id));
                outputs.push((part.name, view));
            }
        }
        let (label, state) = (self.full(label), self.full(state));
        self.graph.nodes.push(Node { label, operator, reads, writes, state });
        Ok(Outputs(outputs))
    }

    /// Adds an operator of the table, whose settings are flags and the shapes of what it reads.
    pub(crate) fn apply(
        &mut self,
        label: &str,
        op: &'static Op,
        flags: &Flags,
        layout: Layout,
        reads: Vec<(&'static str, View)>,
        state: &str,
    ) -> Result<Outputs, Error> {
        let mut flags = flags.clone();
        if op.recurrent && self.phase.carry && self.phase.tokens == 1 {
            flags.set("decode", "true");
        }
        let shapes: Vec<_> = reads.iter().map(|(name, view)| ((*name).to_owned(), view.shape.clone())).collect();
        let carry = self.phase.carry && op.recurrent;
        let request = Request { flags: &flags, shapes: &shapes, layout, dtype: self.phase.dtype, carry };
        let operator = op.configure(&request)?;
        self.node(label, operator, reads, state)
    }

    /// The tensor `position`: tokens so far, with those of this run. Only if states are carried.
    pub(crate) fn position(&mut self) -> View {
        self.graph.value(Home::State("position".into()), [1], DType::U32)
    }

    /// A state of the layer that a node before has updated.
    pub(crate) fn state(&mut self, name: &str, shape: impl Into<Shape>) -> View {
        let home = Home::State(self.full(name));
        self.graph.value(home, shape, self.phase.dtype)
    }

    /// The norm of rows of the residual stream.
    fn norm(&mut self, name: &str, h: &View) -> Result<View, Error> {
        let (spec, n) = (self.spec, self.phase.tokens);
        let mut config = gated_norm::Config::new(n, spec.hidden);
        config.weight = gated_norm::Weight::Shared;
        config.gate = None;
        config.eps = spec.eps;
        config.dtype = self.phase.dtype;
        let mut reads = vec![("x", h.shaped([1, 1, n, spec.hidden]))];
        reads.push(("weight", self.weight(&format!("{name}.weight"), [spec.hidden])?));
        if spec.norm == Norm::Layer {
            config.kind = gated_norm::Kind::Layer;
            config.bias = gated_norm::Weight::Shared;
            reads.push(("bias", self.weight(&format!("{name}.bias"), [spec.hidden])?));
        }
        Ok(self.node(name, Box::new(config), reads, "")?.get("o").shaped([n, spec.hidden]))
    }

    /// The RMS norm of every head of x `[1, N, H, E]`, with a weight `[E]`, or `[H E]` if `per_head`, and a gate on the result.
    pub(crate) fn norm_of_heads(
        &mut self,
        name: &str,
        x: View,
        (per_head, gate): (bool, Option<(View, Gate)>),
    ) -> Result<View, Error> {
        let (heads, dim) = (x.shape.dims()[2], x.shape.dims()[3]);
        let weight = if per_head {
            self.weight(&format!("{name}.weight"), [heads * dim])?.shaped([heads, dim])
        } else {
            self.weight(&format!("{name}.weight"), [dim])?
        };
        let mut config = self.heads_norm(&x, gate.as_ref().map(|(_, gate)| *gate));
        config.weight = if per_head { gated_norm::Weight::PerHead } else { gated_norm::Weight::Shared };
        let mut reads = vec![("x", x), ("weight", weight)];
        reads.extend(gate.map(|(z, _)| ("gate", z)));
        Ok(self.node(name, Box::new(config), reads, "")?.get("o"))
    }

    /// x `[1, N, H, E]` times the activation of z.
    pub(crate) fn gated(&mut self, x: View, z: View, gate: Gate) -> Result<View, Error> {
        let mut config = self.heads_norm(&x, Some(gate));
        config.kind = gated_norm::Kind::None;
        Ok(self.node("mixer.gate", Box::new(config), vec![("x", x), ("gate", z)], "")?.get("o"))
    }

    fn heads_norm(&self, x: &View, gate: Option<Gate>) -> gated_norm::Config {
        let (heads, dim) = (x.shape.dims()[2], x.shape.dims()[3]);
        let mut config = gated_norm::Config::new(Tokens::new(1, heads, self.phase.tokens).layout(Layout::Bnhd), dim);
        config.gate = gate.map(|gate| match gate {
            Gate::Silu => gated_norm::Gate::Silu,
            Gate::Sigmoid => gated_norm::Gate::Sigmoid,
        });
        config.eps = self.spec.eps;
        config.dtype = self.phase.dtype;
        config
    }

    /// Products of one input, `x [N, K]`, with several weights. Returns an output for each: `[N, M]`, or `[M, N]`.
    pub(crate) fn project(&mut self, label: &str, x: &View, wanted: &[Wanted<'_>]) -> Result<Vec<View>, Error> {
        if self.phase.fused {
            return self.product(label, x, wanted, End::default());
        }
        let mut outputs = Vec::new();
        for one in wanted {
            outputs.extend(self.product(one.0, x, &[*one], End::default())?);
        }
        Ok(outputs)
    }

    /// One product, of `x [N, K]`.
    pub(crate) fn one(&mut self, name: &str, x: &View, width: usize, end: End<'_>) -> Result<View, Error> {
        Ok(self.product(name, x, &[(name, width, false)], end)?.remove(0))
    }

    /// What a product with the weight `name` adds to the residual stream. x is `[N, K]`, or `[K, N]` if `columns`.
    fn residual(&mut self, name: &str, x: &View, columns: bool, h: &View) -> Result<View, Error> {
        let end = End { residual: Some(h), scale: Some(self.spec.residual_scale), ..End::default() };
        let inner = x.shape.dims()[usize::from(!columns)];
        let weight = [(name, self.spec.hidden, false)];
        Ok(self
            .matmul(name, (x, inner, columns), &weight, &weight.map(|(_, width, columns)| (width, columns)), end)?
            .remove(0))
    }

    fn product(&mut self, label: &str, x: &View, wanted: &[Wanted<'_>], end: End<'_>) -> Result<Vec<View>, Error> {
        let blocks: Vec<_> = wanted.iter().map(|(_, width, columns)| (*width, *columns)).collect();
        self.matmul(label, (x, x.shape.dims()[1], false), wanted, &blocks, end)
    }

    /// A product of an input (`x`, its inner axis, whether it is `[K, N]`) with rows of weights, whose outputs are blocks: the number
    /// of rows of each, and whether it is `[M, N]`.
    pub(crate) fn matmul(
        &mut self,
        label: &str,
        (x, inner, x_columns): (&View, usize, bool),
        wanted: &[Wanted<'_>],
        blocks: &[(usize, bool)],
        end: End<'_>,
    ) -> Result<Vec<View>, Error> {
        let rows = wanted.iter().map(|(_, width, _)| width).sum();
        let names: Vec<_> = wanted.iter().map(|(name, ..)| format!("{name}.weight")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for (name, (_, width, _)) in names.iter().zip(wanted) {
            self.check(name, &[*width, inner].into())?;
        }
        let (weight, stored) = self.stored(&names, [rows, inner])?;
        let mut config = matmul::Config::new(self.phase.tokens, inner, rows);
        config.outputs =
            blocks.iter().map(|(width, columns)| matmul::Output { width: *width, columns: *columns }).collect();
        config.x_columns = x_columns;
        config.dtype = self.phase.dtype;
        config.weight = stored;
        config.activation = end.activation.unwrap_or(matmul::Activation::None);
        config.scale = end.scale.unwrap_or(1.0);
        let mut reads = vec![("x", x.clone()), ("weight", weight)];
        if let Some(bias) = if end.unbiased { None } else { self.bias(wanted)? } {
            config.bias = true;
            reads.push(("bias", bias));
        }
        if let Some(times) = end.times {
            config.times = true;
            reads.push(("times", times.clone()));
        }
        if let Some(residual) = end.residual {
            config.residual = true;
            reads.push(("residual", residual.clone()));
        }
        let outputs = self.node(label, Box::new(config), reads, "")?;
        Ok(outputs.0.into_iter().map(|(_, view)| view).collect())
    }

    /// The biases of weights, with zeros for those that have none; `None` if all have none.
    fn bias(&mut self, wanted: &[Wanted<'_>]) -> Result<Option<View>, Error> {
        let (mut pieces, mut some, mut rows) = (Vec::new(), false, 0);
        for (name, width, _) in wanted {
            let name = format!("{name}.bias");
            rows += width;
            if self.has(&name)? {
                self.check(&name, &[*width].into())?;
                pieces.push(Piece::Named(self.full(&name)));
                some = true;
            } else {
                pieces.push(Piece::Zeros(*width));
            }
        }
        Ok(some.then(|| self.graph.value(Home::Weight(pieces), [rows], DType::F32)))
    }
}

/// The axes that are longer than 1.
fn squeezed(shape: &Shape) -> Vec<usize> {
    shape.dims().iter().copied().filter(|length| *length != 1).collect()
}
