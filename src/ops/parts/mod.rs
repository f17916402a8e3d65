//! Parts of memories that are addressed sparsely, each usable alone: addresses by products of choices ([`topk`]),
//! weighted sums over rows of a table ([`gather`]), numbers sorted stably by what they fall into ([`bin`]), and the
//! layer around a memory ([`gate`]). RAM-Net is made of the same fragments of kernels. They are no rows of
//! [`OPS`](super::OPS); each configuration is an [`Operator`](super::Operator), so that [`plan`](super::plan) and the
//! cpu path take it.

#[cfg(feature = "cpu")]
pub(crate) mod beam;
pub mod bin;
pub mod gate;
pub mod gather;
pub(crate) mod reference;
pub mod topk;

use bytemuck::{Pod, Zeroable};

use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Step};
use crate::gpu::source::{Bind, COUNT_OFF, Field, Kernel, Source, Spec, fields, source};
use crate::tensor::DType;

/// Twin of `struct Params` in `shaders/parts/types.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
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

const FIELDS: &[Field] = fields!(Params: grid, rows, count, dim, table, heads, inner, run, tau, eps, _pad, _pads);
const TYPES: Source = source!("parts/types.wgsl");

/// Why the kernels need no inserted checks; those that take indices from a caller compare them first.
const PROOF: &str = "indices are below sizes in the uniform by guards; what a tensor says is compared before it is an \
                     index; loops end at consts, uniforms, or halve a range";

const fn kernel(name: &'static str, sources: &'static [Source], bindings: &'static [(&'static str, Bind)]) -> Kernel {
    Kernel { name, sources, bindings, params: FIELDS, params_size: size_of::<Params>(), bounds_proof: Some(PROOF) }
}

fn spec(elem: DType, consts: Vec<(&'static str, u32)>, overrides: Vec<(&'static str, u32)>) -> Spec {
    Spec { elem, fragments: vec![COUNT_OFF], consts, overrides }
}

fn step(
    kernel: &'static Kernel,
    spec: Spec,
    params: &Params,
    operands: Vec<Operand>,
    groups: usize,
    cost: Cost,
) -> Step {
    let params = bytemuck::bytes_of(params).to_vec();
    Step { kernel, spec, params, operands, first: 0, groups: groups as u64, cost }
}

/// Every kernel of the parts in some specialisations, in both storage types: what shader validation sees.
pub fn kernels() -> Vec<(&'static Kernel, Spec)> {
    use super::Operator;
    use crate::gpu::Caps;
    let caps = Caps { f16: true, ..Caps::portable() };
    let mut list: Vec<(&'static Kernel, Spec)> = Vec::new();
    for dtype in [DType::F32, DType::F16] {
        let product = topk::Config { dtype, ..topk::Config::new(9, 5, 4, 8) };
        let keys = topk::Config { weights: topk::Weights::Softmax, ..topk::Config::new(9, 2, 512, 32) };
        let scaled = gate::Config { scale: gate::Scale::PerHead, ..gate::Config::new(1, 2, 5, 40) };
        let all: [Box<dyn Operator>; 6] = [
            Box::new(product),
            Box::new(keys),
            Box::new(gather::Config { dtype, ..gather::Config::new(9, 8, 100, 40) }),
            Box::new(bin::Config::new(2, 5000, 64)),
            Box::new(gate::Config { dtype, ..scaled.clone() }),
            Box::new(gate::Config { dtype, gated: false, ..scaled }),
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
