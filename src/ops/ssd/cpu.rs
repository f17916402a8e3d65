//! The `cpu` backend: the recurrence of [`crate::cores::recurrence::cpu`] with keys b, values x and queries c. The keys
//! of each token are multiplied by its step. The epilogue adds d x and multiplies by the gate of z.

use crate::cpu::simd;
use std::ops::Range;

use super::Config;
use crate::cores::recurrence::cpu as recurrence;
use crate::cores::recurrence::cpu::{Components, Head, Recurrence, Tensors};
use crate::cores::recurrence::cpu_decay::{Decay, Steps};
use crate::cpu::channels;
use crate::cpu::tiles::Source;
use crate::tensor::{Layout, TensorMap};

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let get = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let source = |name: &str| Source::new(get(name), Layout::Bnhd, None);
    let weights = |name: &str, there: bool| if there { get(name).to_f32() } else { vec![0.0; config.heads] };
    let a =
        if config.a_log { get("a_log").to_f32().into_iter().map(channels::rate).collect() } else { get("a").to_f32() };
    let steps = Steps { dt: source("dt"), a, bias: weights("dt_bias", config.dt_bias), rule: config.steps };
    let run = Recurrence {
        qkv: config.qkv(),
        features: Components { width: config.states, dim_v: config.dim },
        mode: config.mode,
        scale: 1.0,
        norm_eps: None,
        transposed: true,
    };
    let (d, dim) = (weights("d", config.d), config.dim);
    let (x, z) = (source("x"), config.z.then(|| source("z")));
    let finish = |head: Head, tokens: Range<usize>, rows: &mut [f32]| {
        let mut space = vec![0.0; rows.len()];
        if config.d {
            let x = x.tile(head.batch, head.head, tokens.clone(), &mut space);
            for (i, row) in rows.chunks_exact_mut(dim).enumerate() {
                let x = x.row(i, dim);
                if config.d_per_channel {
                    let own = d[head.head * dim..].iter().zip(x);
                    row.iter_mut().zip(own).for_each(|(row, (d, x))| *row += d * x);
                } else {
                    simd::add_scaled(row, x, d[head.head]);
                }
            }
        }
        if let Some(z) = &z {
            let mut gates = vec![0.0; rows.len()];
            let z = z.tile(head.batch, head.head, tokens, &mut space);
            gates.chunks_exact_mut(dim).enumerate().for_each(|(i, gate)| gate.copy_from_slice(z.row(i, dim)));
            channels::silu(&mut gates);
            simd::multiply(rows, &gates);
        }
    };
    let own = Tensors { q: source("c"), k: source("b"), v: source("x"), decay: Decay::Steps(steps) };
    run.run(own, tensors, "y", (config.d || config.z).then_some(&finish))
}

/// Describes the chunks and segments, for people.
pub(super) fn variant(config: &Config) -> String {
    recurrence::variant::<Components>(config.mode.segment)
}
