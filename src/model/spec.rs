//! What a model is, whatever its files call the parts: one description of layers, to which every family is mapped.

use std::collections::BTreeMap;

use crate::catalog::flags::Flags;
use crate::catalog::spec::Op;

/// A model.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name of the family: the `model_type` of the configuration.
    pub family: &'static str,
    /// V: number of tokens of the vocabulary.
    pub vocab: usize,
    /// d: width of the residual stream.
    pub hidden: usize,
    /// What tokens stand for.
    pub tokens: Tokens,
    /// Whether a token depends only on those before it.
    pub causal: bool,
    /// The norm before mixers, MLPs and the head.
    pub norm: Norm,
    /// Added to the variance, or to the mean square, by every norm of the model.
    pub eps: f32,
    /// How positions enter.
    pub positions: Positions,
    /// The most tokens of a sequence, where weights have a length of their own.
    pub max_len: Option<usize>,
    /// What the outputs are.
    pub head: Head,
    /// Whether the head uses the matrix of the embedding.
    pub tied: bool,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// The MLP behind every mixer.
    pub mlp: Option<Mlp>,
    /// Factor of the embeddings.
    pub embed_scale: f32,
    /// Factor of what mixers and MLPs add to the residual stream.
    pub residual_scale: f32,
    /// Factor of the logits.
    pub logits_scale: f32,
    /// Names of the classes; empty if the files have none.
    pub labels: Vec<String>,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
}

/// What the numbers of tokens stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// The bytes of a text.
    Bytes,
    /// The pieces of a tokenizer, whose file lies beside the weights.
    Tokenizer,
}

/// Kind of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Division by the root of the mean square.
    Rms,
    /// Subtraction of the mean, then division by the standard deviation; with a bias.
    Layer,
}

/// How positions enter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// Only through the order in which mixers take the tokens.
    None,
    /// Rotary: pairs of elements of queries and keys turn by an angle that grows with the position.
    Rope {
        /// Base of the angles.
        theta: f32,
        /// Number of leading elements that turn; `None` for all.
        dims: Option<usize>,
    },
    /// A learned vector per position, of which there are [`Spec::max_len`].
    Learned,
}

/// What the outputs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Logits of the next token, a row per position.
    Lm,
    /// Logits of a class, a row per position.
    Tags(usize),
    /// Logits of a class of the whole sequence: the mean over positions.
    Class(usize),
}

impl Head {
    /// Number of logits in a row.
    pub fn width(self, vocab: usize) -> usize {
        match self {
            Head::Lm => vocab,
            Head::Tags(classes) | Head::Class(classes) => classes,
        }
    }
}

/// The MLP of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mlp {
    /// Its form.
    pub kind: MlpKind,
    /// Number of hidden elements.
    pub hidden: usize,
}

/// Form of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(silu(gate x) * up x)`.
    Swiglu,
    /// `down(gelu(up x))`, with the exact error function.
    Gelu,
}

/// The activation of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `z / (1 + e^-z)`.
    Silu,
    /// `1 / (1 + e^-z)`.
    Sigmoid,
}

/// A layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The operator that mixes tokens.
    pub op: &'static Op,
    /// Sizes by name: `heads`, `state`. A size that is absent follows from tensors or from others.
    pub sizes: BTreeMap<&'static str, usize>,
    /// Settings of the operator.
    pub flags: Flags,
    /// The activation of the gate `z` on the output, where a mixer has one.
    pub gate: Gate,
    /// The logarithm of a decay per key channel is divided by it.
    pub gate_divisor: f32,
}

impl Layer {
    /// A layer without settings.
    pub fn new(op: &'static Op) -> Self {
        Self { op, sizes: BTreeMap::new(), flags: Flags::new(), gate: Gate::Silu, gate_divisor: 16.0 }
    }

    /// Sets a size.
    #[must_use]
    pub fn size(mut self, name: &'static str, size: usize) -> Self {
        self.sizes.insert(name, size);
        self
    }

    /// Sets a flag of the operator.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl Into<String>) -> Self {
        self.flags.set(name, value);
        self
    }

    /// Whether the layer runs along the sequence only from the first token to the last.
    pub fn is_causal(&self) -> bool {
        let forward = self.flags.word("direction").is_none_or(|direction| direction == "forward");
        let padded = self.flags.word("padding").is_none_or(|padding| padding == "causal");
        forward && padded && self.flags.switch("causal").unwrap_or(true)
    }
}
