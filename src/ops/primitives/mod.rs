//! Building blocks of sparsely addressed memories, each usable on its own: addresses by products of choices ([`topk`]),
//! weighted sums of rows of a table ([`gather`]), a stable sort of numbers by bins ([`stable_sort`]), and the layer
//! around a memory ([`gated_norm`]). RAM-Net uses the same WGSL fragments. The building blocks are not rows of
//! [`OPS`](crate::ops::OPS), but each configuration is an [`Operator`](crate::operator::Operator), so it can be planned
//! ([`Plan`](crate::operator::Plan)) and run on the `cpu` backend.

#[cfg(feature = "cpu")]
pub(crate) mod beam;
pub mod gated_norm;
pub mod gather;
pub(crate) mod reference;
pub mod stable_sort;
pub mod topk;

use crate::gpu::grid::Grid;
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};

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
        _pad: u32,
        _pads: [u32; 2],
    }
}

const TYPES: Fragment = fragment!("primitives/types.wgsl");

/// Why every index of the kernels is within bounds. Indices that a caller gives are compared with sizes before use.
const PROOF: &str = "indices are below sizes in the uniform by guards; what a tensor says is compared before it is an \
                     index; loops end at consts, uniforms, or halve a range";

const fn kernel(name: &'static str, sources: &'static [Fragment]) -> Kernel {
    Kernel::new(name, sources, Params::UNIFORM, Some(PROOF))
}

/// Every kernel of the building blocks in some specialisations, in both storage types. Shader validation checks this
/// list.
pub fn kernels() -> Vec<(&'static Kernel, Variant)> {
    use crate::gpu::Caps;
    use crate::operator::Operator;
    use crate::tensor::DType;
    let caps = Caps { f16: true, ..Caps::portable() };
    let mut list: Vec<(&'static Kernel, Variant)> = Vec::new();
    for dtype in [DType::F32, DType::F16] {
        let product = topk::Config { dtype, ..topk::Config::new(9, 5, 4, 8) };
        let keys = topk::Config { weights: topk::Weights::Softmax, ..topk::Config::new(9, 2, 512, 32) };
        let scaled = gated_norm::Config { scale: gated_norm::Scale::PerHead, ..gated_norm::Config::new(1, 2, 5, 40) };
        let all: [Box<dyn Operator>; 6] = [
            Box::new(product),
            Box::new(keys),
            Box::new(gather::Config { dtype, ..gather::Config::new(9, 8, 100, 40) }),
            Box::new(stable_sort::Config::new(2, 5000, 64)),
            Box::new(gated_norm::Config { dtype, ..scaled.clone() }),
            Box::new(gated_norm::Config { dtype, gated: false, ..scaled }),
        ];
        for program in all.iter().filter_map(|part| part.program(&caps).ok()) {
            for step in program.steps() {
                if !list.iter().any(|(kernel, spec)| kernel.name == step.kernel.name && *spec == step.spec) {
                    list.push((step.kernel, step.spec.clone()));
                }
            }
        }
    }
    list
}
