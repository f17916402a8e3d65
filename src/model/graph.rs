//! The graph of a model for a number of tokens: operators in the order in which they run, and the values between them. Both
//! backends run it.

use crate::operator::Operator;
use crate::tensor::{DType, Shape};

/// Number of a value in its graph.
pub(crate) type Id = usize;

/// Rows of a weight, one below another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Piece {
    /// The tensor of that name.
    Named(String),
    /// The tensor of that name, of whose last axis only so many elements are used.
    Cut(String, usize),
    /// So many elements that are 0.
    Zeros(usize),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Home {
    /// A node of the graph writes it.
    Made,
    /// The tokens of the run.
    Tokens,
    /// Weights of the model.
    Weight(Vec<Piece>),
    /// The state of that name, which a node before has updated.
    State(String),
}

/// A tensor.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub home: Home,
    pub shape: Shape,
    pub dtype: DType,
}

/// A value, or a part of it in another shape.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub id: Id,
    /// First element.
    pub offset: usize,
    pub shape: Shape,
    /// Elements from one index of an axis to the next; `None` if the elements are contiguous.
    pub strides: Option<Vec<usize>>,
}

impl View {
    /// The same elements in another shape. The view must be contiguous.
    pub(crate) fn shaped(&self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        debug_assert!(self.strides.is_none() && shape.count() == self.shape.count(), "{} as {shape}", self.shape);
        Self { shape, ..self.clone() }
    }

    /// Some of the elements of a contiguous view, from element `first` on.
    pub(crate) fn part(&self, first: usize, shape: impl Into<Shape>) -> Self {
        Self { offset: self.offset + first, shape: shape.into(), ..self.clone() }
    }

    /// Some of the columns of a contiguous matrix `[N, C]`, from column `first` on, as rows of this shape: `[1, N, H, D]`, or
    /// without the last axis.
    pub(crate) fn columns(&self, first: usize, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        let width = self.shape.dims()[1];
        let mut strides = vec![1; shape.rank()];
        for axis in (0..shape.rank() - 1).rev() {
            strides[axis] = if axis < 2 { width } else { strides[axis + 1] * shape.dims()[axis + 1] };
        }
        strides[0] *= shape.dims()[1];
        Self { id: self.id, offset: self.offset + first, shape, strides: Some(strides) }
    }
}

/// An operator with what it reads and writes.
#[derive(Debug)]
pub(crate) struct Node {
    /// What it computes, for people: `layers.3.mixer.in_proj`.
    pub label: String,
    pub operator: Box<dyn Operator>,
    /// Tensors read, by the names of the parts of slots.
    pub reads: Vec<(&'static str, View)>,
    /// Values written, likewise.
    pub writes: Vec<(&'static str, Id)>,
    /// What the names of its states begin with: `layers.3.`.
    pub state: String,
}

/// The graph of a model.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    /// Logits, `[N, V]`, if the graph has them.
    pub logits: Option<Id>,
}

impl Graph {
    /// Adds a value.
    pub(crate) fn value(&mut self, home: Home, shape: impl Into<Shape>, dtype: DType) -> View {
        let shape = shape.into();
        self.values.push(Value { home, shape: shape.clone(), dtype });
        View { id: self.values.len() - 1, offset: 0, shape, strides: None }
    }

    /// The last node that reads each value; `None` for one that nothing reads.
    pub(crate) fn last_reads(&self) -> Vec<Option<usize>> {
        let mut last = vec![None; self.values.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            node.reads.iter().for_each(|(_, view)| last[view.id] = Some(at));
        }
        if let Some(logits) = self.logits {
            last[logits] = Some(self.nodes.len());
        }
        last
    }
}
