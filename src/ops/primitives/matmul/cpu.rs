//! The `cpu` backend: blocks of rows by blocks of the weight's rows, on all threads.

use std::borrow::Cow;
use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Activation, Config, NAMES, Output};
use crate::cpu::matrix::{Mat, Onto, product};
use crate::cpu::{channels, simd, threads};
use crate::tensor::{HostTensor, TensorMap, Values};

/// Rows and columns of a block.
const ROWS: usize = 128;
const COLUMNS: usize = 128;
/// Rows up to which every row of the weight is multiplied as it is read.
const FEW: usize = 8;

pub(super) fn variant(c: &Config) -> String {
    if c.rows <= FEW {
        "row after row of the weight".into()
    } else {
        format!("blocks of {ROWS} rows and {COLUMNS} columns")
    }
}

pub(super) fn run(c: &Config, tensors: &TensorMap) -> TensorMap {
    let mut outputs: Vec<_> =
        (0..c.outputs.len()).map(|at| HostTensor::zeros(c.shape(at), c.dtype).into_values()).collect();
    compute(c, tensors, &mut outputs);
    let named = outputs.into_iter().enumerate();
    named.map(|(at, values)| (NAMES[at].to_owned(), HostTensor::new(c.shape(at), values))).collect()
}

pub(super) fn update(c: &Config, tensors: &mut TensorMap) {
    let lend = |at| tensors.lend(NAMES[at], &c.shape(at), c.dtype).into_values();
    let mut outputs: Vec<_> = (0..c.outputs.len()).map(lend).collect();
    compute(c, tensors, &mut outputs);
    for (at, values) in outputs.into_iter().enumerate() {
        tensors.insert(NAMES[at], HostTensor::new(c.shape(at), values));
    }
}

/// The values of a tensor as f32: copied only if they are stored otherwise.
fn floats<'t>(tensors: &'t TensorMap, name: &str) -> Cow<'t, [f32]> {
    match tensors.get(name) {
        Some(tensor) => match tensor.values() {
            Values::F32(values) => Cow::Borrowed(values),
            _ => Cow::Owned(tensor.to_f32()),
        },
        None => Cow::Borrowed(&[]),
    }
}

/// What every block reads.
struct Inputs<'t> {
    config: &'t Config,
    x: Cow<'t, [f32]>,
    weight: &'t Values,
    bias: Cow<'t, [f32]>,
    times: Cow<'t, [f32]>,
    residual: Cow<'t, [f32]>,
}

/// An output that several threads write, each its own elements.
enum Sink {
    Single(*mut f32),
    Half(*mut f16),
}

// SAFETY: no two blocks have an element in common.
unsafe impl Sync for Sink {}

fn compute(c: &Config, tensors: &TensorMap, outputs: &mut [Values]) {
    let Some(weight) = tensors.get("weight") else { return };
    let [x, bias, times, residual] = ["x", "bias", "times", "residual"].map(|name| floats(tensors, name));
    let given = |is: bool, values| if is { values } else { Cow::Borrowed(&[][..]) };
    let inputs = Inputs {
        config: c,
        x,
        weight: weight.values(),
        bias: given(c.bias, bias),
        times: given(c.times, times),
        residual: given(c.residual, residual),
    };
    let sinks: Vec<Sink> = outputs
        .iter_mut()
        .map(|values| match values {
            Values::F16(values) => Sink::Half(values.as_mut_ptr()),
            Values::F32(values) => Sink::Single(values.as_mut_ptr()),
            _ => unreachable!("outputs are f32 or f16"),
        })
        .collect();
    let mut blocks = Vec::new();
    let mut first = 0;
    for (at, output) in c.outputs.iter().enumerate() {
        for from in (0..output.width).step_by(COLUMNS) {
            for row in (0..c.rows).step_by(ROWS) {
                let columns = from..(from + COLUMNS).min(output.width);
                blocks.push((at, first, row..(row + ROWS).min(c.rows), columns));
            }
        }
        first += output.width;
    }
    let work = 2 * (c.rows * c.inner) as u64 * c.width() as u64;
    threads::each(blocks.len(), work, |i| {
        let (at, first, rows, columns) = &blocks[i];
        inputs.block(*at, *first, rows, columns, &sinks[*at]);
    });
}

impl Inputs<'_> {
    /// Computes some rows and columns of an output whose rows of the weight begin at `first`.
    fn block(&self, at: usize, first: usize, rows: &Range<usize>, columns: &Range<usize>, sink: &Sink) {
        let (c, k) = (self.config, self.config.inner);
        let (n, m) = (rows.len(), columns.len());
        let own = (first + columns.start) * k..(first + columns.end) * k;
        let halves = if matches!(self.weight, Values::F16(_)) { m * k } else { 0 };
        threads::scratch([n * m, halves], |[sums, space]| {
            let weight = match self.weight {
                Values::F16(weight) => {
                    weight[own].convert_to_f32_slice(space);
                    &*space
                }
                Values::F32(weight) => &weight[own],
                _ => unreachable!("weights are f32 or f16"),
            };
            if n <= FEW && !c.x_columns {
                for (m_at, weight) in weight.chunks_exact(k).enumerate() {
                    for (n_at, row) in rows.clone().enumerate() {
                        sums[n_at * m + m_at] = simd::dot(&self.x[row * k..][..k], weight);
                    }
                }
            } else {
                let x = if c.x_columns {
                    Mat::rows(&self.x[rows.start..], c.rows).t()
                } else {
                    Mat::rows(&self.x[rows.start * k..], k)
                };
                product([n, k, m], x, Mat::rows(weight, k).t(), Onto::Nothing, sums, m);
            }
            self.finish(at, first, rows, columns, sums, sink);
        });
    }

    /// Writes what follows from the sums of a block.
    fn finish(
        &self,
        at: usize,
        first: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        sums: &mut [f32],
        sink: &Sink,
    ) {
        let c = self.config;
        let Output { width, columns: turned } = c.outputs[at];
        for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(columns.len())) {
            if c.bias {
                simd::add(sums, &self.bias[first + columns.start..][..columns.len()]);
            }
            activate(sums, c.activation);
            let place = |column: usize| if turned { column * c.rows + row } else { row * width + column };
            for (value, column) in sums.iter_mut().zip(columns.clone()) {
                if c.times {
                    *value *= self.times[place(column)];
                }
                *value *= c.scale;
                if c.residual {
                    *value += self.residual[place(column)];
                }
            }
            for (value, column) in sums.iter().zip(columns.clone()) {
                // SAFETY: the place is below rows times width, the number of elements of the output, and no other block has it.
                unsafe {
                    match sink {
                        Sink::Single(o) => *o.add(place(column)) = *value,
                        Sink::Half(o) => *o.add(place(column)) = f16::from_f32(*value),
                    }
                }
            }
        }
    }
}

/// Applies the function to every element.
fn activate(x: &mut [f32], activation: Activation) {
    match activation {
        Activation::None => {}
        Activation::Silu => silus(x),
        Activation::Gelu => gelus(x),
        Activation::GeluTanh => tanh_gelus(x),
        Activation::Relu => relus(x),
        Activation::Relu2 => {
            relus(x);
            x.iter_mut().for_each(|x| *x *= *x);
        }
        Activation::Sigmoid => sigmoids(x),
        Activation::LogSigmoid => {
            // The negative softplus of the negative.
            x.iter_mut().for_each(|x| *x = -*x);
            channels::softplus(x);
            x.iter_mut().for_each(|x| *x = -*x);
        }
    }
}

fn relus(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
}

simd::wide! {
    fn silus(x: &mut [f32]) {
        for x in x {
            *x /= 1.0 + simd::exp_signed(-*x);
        }
    }
}

simd::wide! {
    fn sigmoids(x: &mut [f32]) {
        for x in x {
            *x = 1.0 / (1.0 + simd::exp_signed(-*x));
        }
    }
}

simd::wide! {
    fn tanh_gelus(x: &mut [f32]) {
        for x in x {
            // (1 + tanh y) / 2 is the sigmoid of 2 y.
            let inner = 1.595_769 * (*x + 0.044_715 * *x * *x * *x);
            *x /= 1.0 + simd::exp_signed(-inner);
        }
    }
}

simd::wide! {
    fn gelus(x: &mut [f32]) {
        for x in x {
            // The share of a normal distribution beyond |x|: the fit of shaders/lib/normal.wgsl.
            let size = x.abs();
            let t = 1.0 / (1.0 + 0.35 * size);
            let mut p = -0.029_095_206_f32;
            for c in [
                0.143_720_08,
                -0.255_183_3,
                0.158_553_53,
                -0.022_671_597,
                0.105_317_235,
                0.119_882_69,
                0.139_854_76,
                0.139_621_82,
            ] {
                p = p * t + c;
            }
            let beyond = p * t * simd::exp(-0.5 * size * size);
            *x *= if *x < 0.0 { beyond } else { 1.0 - beyond };
        }
    }
}
