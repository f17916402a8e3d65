//! Shapes, storage types, tensors in host memory and tensors in a `wgpu::Buffer`.

pub(crate) mod axes;
mod data;
mod host;
mod shape;
mod slot;
mod view;

pub use data::{Data, Lender};
pub use host::{HostTensor, TensorMap, Values};
pub use shape::{DType, Layout, Shape, Strides};
pub use slot::{Access, Part, Slot};
pub(crate) use view::Origin;
pub use view::Tensor;
