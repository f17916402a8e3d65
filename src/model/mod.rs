//! Whole models from weights: a stack of mixers and MLPs between an embedding and a head, read from a folder as published.
//!
//! [`Model::open`] reads `config.json` and the headers of the weights, and refuses what is missing, left over or not understood,
//! before any data is read. A [`Session`] runs a model on a backend and carries its state. To run one inside your own wgpu
//! program, plan it with [`device::Device`] and encode it into your encoder.
//!
//! ```no_run
//! use subquad::model::{Model, Session};
//!
//! # fn main() -> Result<(), subquad::Error> {
//! let model = Model::open("path/to/model".as_ref())?;
//! let mut session = Session::on_cpu(&model)?;
//! let logits = session.run(b"In the beginning".iter().map(|byte| u32::from(*byte)).collect::<Vec<_>>().as_slice())?;
//! println!("{}", logits.shape());
//! # Ok(())
//! # }
//! ```
//!
//! A model is described by one [`spec::Spec`], to which every family of published models is mapped. Both backends run the same
//! graph of operators, which is built for a number of tokens.

mod builder;
pub mod device;
mod families;
mod graph;
mod host;
mod keys;
mod mixers;
pub mod sampling;
mod session;
pub mod spec;
pub mod tokens;
mod weights;

use std::collections::BTreeSet;
use std::path::Path;

use builder::{Builder, Phase};
use families::Names;
use graph::{Graph, Home, Piece, Value};
pub use session::{Session, Sink};
use spec::{Head, Spec};
use weights::Weights;

use crate::error::Error;
use crate::gpu::Caps;
use crate::operator::Operator;
use crate::tensor::{Access, DType, HostTensor};

/// A model whose configuration and headers have been checked. Its weights lie in mapped files.
#[derive(Debug)]
pub struct Model {
    spec: Spec,
    names: Names,
    weights: Weights,
}

/// What a layer, or a part outside the layers, consists of.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// `embed`, `layers.0`, `norm`, `head`.
    pub name: String,
    /// The operator that mixes tokens; empty for a part outside the layers.
    pub mixer: &'static str,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of its states for one sequence.
    pub state_bytes: u64,
    /// Dispatches of one token on a GPU.
    pub dispatches: usize,
    /// Bytes that a token reads and writes at least: weights, states, and what operators pass on, each once.
    pub bytes: u64,
}

impl Model {
    /// Opens a folder with `config.json` and `*.safetensors`, and checks that the weights are exactly those of the model.
    ///
    /// # Errors
    /// One sentence that names the key or tensor.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        if !folder.is_dir() {
            let message = "expected a folder with config.json and *.safetensors, found none";
            return Err(Error::file(folder.to_path_buf(), message.to_owned()));
        }
        let (keys, family) = families::open(folder)?;
        let weights = Weights::open(folder)?;
        let (spec, names) = (family.describe)(&keys, &weights)?;
        let model = Self { spec, names, weights };
        model.graph(Phase { tokens: model.shortest(), ..model.phase() })?;
        model.weights.finish(family.name, family.ignored)?;
        Ok(model)
    }

    /// What the model is.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Folder of the files.
    pub fn folder(&self) -> &Path {
        self.weights.folder()
    }

    /// Bytes of the tensors in the files.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.weights.elements()
    }

    /// Whether a sequence can be processed in chunks, with a state from one to the next: every layer is causal and has a state.
    pub fn is_recurrent(&self) -> bool {
        const WITHOUT: [&str; 2] = ["linformer", "mta"];
        let spec = &self.spec;
        spec.causal && spec.layers.iter().all(|layer| layer.is_causal() && !WITHOUT.contains(&layer.op.name))
    }

    /// The most tokens that a sequence may have; `None` if there is no limit.
    pub fn max_len(&self) -> Option<usize> {
        self.spec.max_len
    }

    /// Tokens of a run that every mixer can take: linformer needs as many as its matrices have rows.
    fn shortest(&self) -> usize {
        if self.is_recurrent() { 1 } else { self.spec.max_len.unwrap_or(1) }
    }

    /// A run of one token that carries no state.
    fn phase(&self) -> Phase {
        Phase { tokens: 1, carry: false, capacity: 0, head: true, dtype: DType::F32, fused: false }
    }

    fn graph(&self, phase: Phase) -> Result<Graph, Error> {
        Builder::new(&self.spec, &self.names, &self.weights, phase).build()
    }

    /// Reads a tensor, by its name in our own form.
    fn tensor(&self, name: &str) -> Result<HostTensor, Error> {
        let source = (self.names.source)(name).unwrap_or_else(|| unreachable!("no {name}"));
        self.weights.read(&source)
    }

    /// Reads the weights that a value consists of.
    fn read(&self, pieces: &[Piece], value: &Value) -> Result<HostTensor, Error> {
        let mut tensors = Vec::new();
        for piece in pieces {
            let tensor = match piece {
                Piece::Zeros(count) => HostTensor::zeros([*count], value.dtype),
                Piece::Named(name) => self.tensor(name)?.cast(value.dtype),
                Piece::Cut(name, length) => {
                    let tensor = self.tensor(name)?;
                    tensor.select(tensor.shape().rank() - 1, &(0..*length).collect::<Vec<_>>()).cast(value.dtype)
                }
            };
            let count = tensor.shape().count();
            tensors.push(tensor.reshape([count]));
        }
        let joined = if tensors.len() == 1 { tensors.remove(0) } else { HostTensor::join(&tensors, 0) };
        Ok(joined.reshape(value.shape.clone()))
    }

    /// The parts of the model: the embedding, the layers, and the rest. States are those of a sequence of so many tokens, and
    /// dispatches those of a token on a GPU with these capabilities.
    ///
    /// # Errors
    /// The errors of the operators at that length.
    pub fn parts(&self, tokens: usize, caps: &Caps) -> Result<Vec<Part>, Error> {
        let carry = self.is_recurrent();
        let graph =
            self.graph(Phase { carry, capacity: tokens.max(1), fused: true, tokens: self.shortest(), ..self.phase() })?;
        let mut parts: Vec<Part> = Vec::new();
        let mut seen = BTreeSet::new();
        for node in &graph.nodes {
            let layer =
                node.label.strip_prefix("layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            let name = layer.map_or_else(|| node.label.clone(), |layer| format!("layers.{layer}"));
            if parts.last().is_none_or(|part| part.name != name) {
                let mixer = layer.map_or("", |layer| self.spec.layers[layer].op.name);
                parts.push(Part { name, mixer, parameters: 0, state_bytes: 0, dispatches: 0, bytes: 0 });
            }
            let Some(part) = parts.last_mut() else { continue };
            for (_, view) in &node.reads {
                let value = &graph.values[view.id];
                let Home::Weight(pieces) = &value.home else { continue };
                if seen.insert(pieces.clone()) {
                    part.parameters += value.shape.count() as u64;
                }
            }
            part.dispatches += node.operator.program(caps)?.steps.len();
            part.bytes += node.operator.cost().bytes() as u64;
            for slot in node.operator.slots().iter().filter(|slot| slot.access == Access::Update) {
                part.state_bytes += slot.checked_bytes().unwrap_or(u64::MAX);
            }
        }
        Ok(parts)
    }

    /// Refuses a model that cannot score or generate a text, which `purpose` says.
    ///
    /// # Errors
    /// [`Error::Setting`] if its head is another than `lm`, or if it is not causal.
    pub fn check_lm(&self, purpose: &str) -> Result<(), Error> {
        let spec = &self.spec;
        if spec.head == Head::Lm && spec.causal {
            return Ok(());
        }
        let found = if spec.causal { "another head" } else { "a model that is not causal" };
        Err(Error::setting(spec.family, "head", format!("lm, of a causal model, to {purpose} a text"), found))
    }

    /// Number of logits in a row.
    fn width(&self) -> usize {
        self.spec.head.width(self.spec.vocab)
    }

    /// What the rows of logits of a run become: for the head `class`, their mean.
    fn pooled(&self, logits: HostTensor) -> HostTensor {
        let Head::Class(classes) = self.spec.head else { return logits };
        let values = logits.to_f32();
        let rows = values.len() / classes;
        // The head is affine, so the mean of its rows is the head of the mean.
        let mean =
            |class: usize| values[class..].iter().step_by(classes).map(|x| f64::from(*x)).sum::<f64>() / rows as f64;
        HostTensor::f32([1, classes], (0..classes).map(|class| mean(class) as f32).collect())
    }

    /// Refuses tokens that are not in the vocabulary.
    fn check_tokens(&self, tokens: &[u32]) -> Result<(), Error> {
        let op = self.spec.family;
        if tokens.is_empty() {
            return Err(Error::tensor(op, "tokens", "one token or more", "none"));
        }
        match tokens.iter().position(|token| *token as usize >= self.spec.vocab) {
            None => Ok(()),
            Some(at) => {
                let expected = format!("numbers below the vocabulary of {}", self.spec.vocab);
                Err(Error::tensor(op, "tokens", expected, format!("{} at {at}", tokens[at])))
            }
        }
    }
}

/// The name of a state in files and between runs. The state of a convolution is the same whether it runs by itself or in
/// the dispatch of the step behind it.
fn state_name(prefix: &str, part: &str) -> String {
    let part = if part == "conv_state" { "conv.state" } else { part };
    format!("{prefix}{part}")
}

/// Puts a tensor in front of zeros, so that it has this shape: a cache of keys or values that has more room.
fn grown(tensor: HostTensor, shape: &crate::tensor::Shape) -> HostTensor {
    let (count, wanted) = (tensor.shape().count(), shape.count());
    if count >= wanted {
        return tensor;
    }
    let rest = HostTensor::zeros([wanted - count], tensor.dtype());
    HostTensor::join(&[tensor.reshape([count]), rest], 0).reshape(shape.clone())
}

/// Names of the parts of an operator's states, with their shapes.
fn state_parts(operator: &dyn Operator) -> Vec<crate::tensor::Part> {
    let slots = operator.slots().into_iter().filter(|slot| slot.access == Access::Update);
    slots.flat_map(|slot| slot.parts).collect()
}
