//! Building blocks, each usable on its own. Of sparsely addressed memories: addresses by products of choices ([`topk`]),
//! weighted sums of rows of a table ([`gather`]), a stable sort of numbers by bins ([`stable_sort`]), and the nearest code of a
//! codebook ([`quantize`]); RAM-Net uses the same WGSL fragments. Of whole models: rows of a table of embeddings
//! ([`embedding`]), norms and gates ([`gated_norm`]), rotary positions and the key/value cache ([`rope`]). Each
//! configuration is an [`Operator`](crate::operator::Operator), so it can be planned ([`Plan`](crate::operator::Plan)) and
//! run on the `cpu` backend. For the command they are the rows of [`PARTS`].

#[cfg(feature = "cpu")]
pub(crate) mod beam;
mod columns;
pub mod embedding;
mod exact;
pub mod gated_norm;
pub mod gather;
pub mod matmul;
pub mod quantize;
pub(crate) mod reference;
pub mod rope;
#[cfg(feature = "catalog")]
mod row;
pub mod stable_sort;
pub mod topk;

#[cfg(feature = "catalog")]
pub use row::PARTS;

#[cfg(feature = "cpu")]
use std::borrow::Cow;

use crate::error::Error;
use crate::gpu::grid::Grid;
use crate::gpu::shader::{Fragment, Kernel, UniformData, fragment, params};
use crate::operator::Rows;
use crate::tensor::{HostTensor, Layout, Shape, TensorMap, Values};

/// The rows of a part: one for each batch entry, head and token, in the order of `layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    /// B: batch.
    pub batch: usize,
    /// H: heads.
    pub heads: usize,
    /// N: tokens.
    pub len: usize,
    /// Order of the axes.
    pub layout: Layout,
}

/// A number of tokens is so many rows of one head.
impl From<usize> for Tokens {
    fn from(len: usize) -> Self {
        Self::new(1, 1, len)
    }
}

impl Tokens {
    /// B, H and N in layout bhnd.
    pub fn new(batch: usize, heads: usize, len: usize) -> Self {
        Self { batch, heads, len, layout: Layout::Bhnd }
    }

    /// Sets the order of the axes.
    #[must_use]
    pub fn layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    fn validate(&self, op: &'static str) -> Result<(), Error> {
        check_lengths(op, [("B", self.batch), ("H", self.heads), ("N", self.len)])
    }

    /// R: number of rows.
    fn rows(&self) -> usize {
        self.batch * self.heads * self.len
    }

    /// Shape of a tensor with `dim` elements per row.
    fn shape(&self, dim: usize) -> Shape {
        self.layout.shape(self.batch, self.heads, self.len, dim)
    }

    /// Rows from one head to the next.
    fn inner(&self) -> usize {
        if self.layout == Layout::Bhnd { self.len } else { 1 }
    }

    /// Rows from one token of a head to the next.
    fn step(&self) -> usize {
        if self.layout == Layout::Bhnd { 1 } else { self.heads }
    }

    /// Rows from one batch entry to the next.
    fn entry(&self) -> usize {
        self.heads * self.len
    }

    /// Batch entry and head of a row.
    fn place(&self, row: usize) -> (usize, usize) {
        (row / self.entry(), row / self.inner() % self.heads)
    }

    /// The rows of the wanted tokens, in the order of the tensors.
    pub(crate) fn wanted(&self, tokens: Rows<'_>) -> Vec<usize> {
        let tokens = tokens.of(self.len);
        let outer = if self.layout == Layout::Bhnd { self.batch * self.heads } else { self.batch };
        let inner = self.step();
        (0..outer)
            .flat_map(|outer| tokens.iter().map(move |token| (outer * self.len + token) * inner))
            .flat_map(|first| first..first + inner)
            .collect()
    }
}

/// Refuses axes of length 0.
fn check_lengths<const K: usize>(op: &'static str, axes: [(&'static str, usize); K]) -> Result<(), Error> {
    match axes.into_iter().find(|(_, length)| *length == 0) {
        Some((axis, _)) => Err(Error::setting(op, axis, "1 or more", "0")),
        None => Ok(()),
    }
}

/// The whole numbers of an input.
fn whole<'t>(tensors: &'t TensorMap, name: &str) -> &'t [i32] {
    match tensors.get(name).map(HostTensor::values) {
        Some(Values::I32(values)) => values,
        _ => panic!("tensor {name} is missing"),
    }
}

/// The numbers of an input as f32, borrowed if they are stored so; none if there is no such tensor.
#[cfg(feature = "cpu")]
fn floats<'t>(tensors: &'t TensorMap, name: &str) -> Cow<'t, [f32]> {
    match tensors.get(name).map(HostTensor::values) {
        Some(Values::F32(values)) => Cow::Borrowed(values),
        _ => tensors.get(name).map(HostTensor::to_f32).unwrap_or_default().into(),
    }
}

/// Refuses whole numbers that are not below `end`. Plans on a GPU do not see the values.
fn check_whole(op: &'static str, name: &str, tensors: &TensorMap, end: usize) -> Result<(), Error> {
    let values = whole(tensors, name);
    match values.iter().position(|value| usize::try_from(*value).map_or(true, |value| value >= end)) {
        Some(at) => {
            let expected = format!("whole numbers from 0 to {}", end - 1);
            Err(Error::tensor(op, name, expected, format!("{} at {at}", values[at])))
        }
        None => Ok(()),
    }
}

params! {
    /// Must match `struct Params` in `shaders/primitives/types.wgsl`.
    struct Params {
        grid: Grid,
        rows: u32,
        count: u32,
        dim: u32,
        table: u32,
        heads: u32,
        inner: u32,
        run: u32,
        tau: f32,
        eps: f32,
        entry: u32,
        table_batch: u32,
        table_head: u32,
    }
}

const TYPES: Fragment = fragment!("primitives/types.wgsl");

/// Why every index of the kernels is within bounds. Indices that a caller gives are compared with sizes before use.
const PROOF: &str = "indices are below sizes in the uniform by guards; what a tensor says is compared before it is an \
                     index; loops end at consts, uniforms, or halve a range";

const fn kernel(name: &'static str, sources: &'static [Fragment]) -> Kernel {
    Kernel::new(name, sources, Params::UNIFORM, Some(PROOF))
}
