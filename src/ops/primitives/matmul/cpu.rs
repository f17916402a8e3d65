//! The `cpu` backend: for few rows, row after row of the weight as it is read; otherwise packed panels of both, on all threads.
//! Every sum has one order, whatever the number of threads.

use std::borrow::Cow;
use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Activation, Config, NAMES, Output};
use crate::cpu::gemm::{DEPTH, Kernel, Rows};
use crate::cpu::{channels, simd, threads};
use crate::tensor::{HostTensor, TensorMap, Values};

/// Rows of x up to which every row of the weight is multiplied as it is read.
const FEW: usize = 8;
/// Bytes of the weight in a task of these, as f32.
const TASK_BYTES: usize = 512 << 10;
/// Rows of the weight that are multiplied at once then.
const TOGETHER: usize = 4;
/// Rows and columns of a task otherwise, at most: multiples of the tile of every kernel.
const ROWS: usize = 1008;
const COLUMNS: usize = 128;

/// Floats of a cache line: a kernel loads as many of a panel at once.
const LINE: usize = 16;

pub(super) fn variant(c: &Config) -> String {
    if c.rows <= FEW { "row after row of the weight".into() } else { format!("panels of {DEPTH} columns") }
}

pub(super) fn run(c: &Config, tensors: &TensorMap) -> TensorMap {
    let mut outputs: Vec<_> =
        (0..c.outputs.len()).map(|at| HostTensor::zeros(c.shape(at), c.dtype).into_values()).collect();
    compute(c, tensors, &mut outputs);
    let named = outputs.into_iter().enumerate();
    named.map(|(at, values)| (NAMES[at].to_owned(), HostTensor::new(c.shape(at), values))).collect()
}

pub(super) fn update(c: &Config, tensors: &mut TensorMap) -> bool {
    let lend = |at| tensors.lend(NAMES[at], &c.shape(at), c.dtype).into_values();
    let mut outputs: Vec<_> = (0..c.outputs.len()).map(lend).collect();
    compute(c, tensors, &mut outputs);
    for (at, values) in outputs.into_iter().enumerate() {
        tensors.insert(NAMES[at], HostTensor::new(c.shape(at), values));
    }
    true
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

// SAFETY: no two tasks have an element in common.
unsafe impl Sync for Sink {}

impl Sink {
    fn new(values: &mut Values) -> Self {
        match values {
            Values::F16(values) => Self::Half(values.as_mut_ptr()),
            Values::F32(values) => Self::Single(values.as_mut_ptr()),
            _ => unreachable!("outputs are f32 or f16"),
        }
    }

    /// Writes values side by side.
    ///
    /// # Safety
    /// The output has elements from `at` to the last of them, and no other task writes these.
    unsafe fn put(&self, at: usize, values: &[f32]) {
        // SAFETY: as above.
        unsafe {
            match *self {
                Self::Single(o) => std::ptr::copy_nonoverlapping(values.as_ptr(), o.add(at), values.len()),
                Self::Half(o) => {
                    std::slice::from_raw_parts_mut(o.add(at), values.len()).convert_from_f32_slice(values);
                }
            }
        }
    }
}

/// A task: some rows of x by some columns of an output, whose rows of the weight begin at `first`.
struct Task {
    output: usize,
    first: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// The tasks of at most so many rows and columns.
fn tasks(c: &Config, rows: usize, columns: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut first = 0;
    for (at, output) in c.outputs.iter().enumerate() {
        for column in (0..output.width).step_by(columns) {
            for row in (0..c.rows).step_by(rows) {
                let columns = column..(column + columns).min(output.width);
                tasks.push(Task { output: at, first, rows: row..(row + rows).min(c.rows), columns });
            }
        }
        first += output.width;
    }
    tasks
}

fn compute(c: &Config, tensors: &TensorMap, outputs: &mut [Values]) {
    let Some(weight) = tensors.get("weight") else { return };
    let given = |is: bool, name| if is { floats(tensors, name) } else { Cow::Borrowed(&[][..]) };
    let inputs = Inputs {
        config: c,
        x: floats(tensors, "x"),
        weight: weight.values(),
        bias: given(c.bias, "bias"),
        times: given(c.times, "times"),
        residual: given(c.residual, "residual"),
    };
    let sinks: Vec<Sink> = outputs.iter_mut().map(Sink::new).collect();
    if c.rows <= FEW { inputs.few(&sinks) } else { inputs.many(&sinks) }
}

impl Inputs<'_> {
    /// Multiplies few rows: each row of the weight is read once.
    fn few(&self, sinks: &[Sink]) {
        let (c, n, k) = (self.config, self.config.rows, self.config.inner);
        let turned: Vec<f32>;
        let x = if c.x_columns && n > 1 {
            turned = (0..n).flat_map(|row| self.x.iter().skip(row).step_by(n).copied()).collect();
            &turned
        } else {
            &self.x[..]
        };
        let columns = (TASK_BYTES / (4 * k)).next_multiple_of(TOGETHER).max(TOGETHER);
        let tasks = tasks(c, n, columns);
        // Reading a number takes as long as several flops.
        let reads = (k * c.width()) as u64;
        threads::each(tasks.len(), reads * (2 * n as u64).max(16), |i| {
            let task = &tasks[i];
            let m = task.columns.len();
            threads::scratch([n * m, TOGETHER * k], |[sums, space]| {
                for at in (0..m).step_by(TOGETHER) {
                    let count = TOGETHER.min(m - at);
                    let first = (task.first + task.columns.start + at) * k;
                    let weight = self.weights(first..first + count * k, space);
                    products(x, weight, k, |row, column, sum| sums[row * m + at + column] = sum);
                }
                self.finish(task, sums, m, &sinks[task.output]);
            });
        });
    }

    /// Multiplies many rows: panels of x are packed once, panels of the weight by each task.
    fn many(&self, sinks: &[Sink]) {
        let (c, n, k) = (self.config, self.config.rows, self.config.inner);
        let kernel = Kernel::new();
        let panels = n.div_ceil(kernel.rows);
        let x = Rows {
            data: &self.x,
            count: n,
            row: if c.x_columns { 1 } else { k },
            column: if c.x_columns { n } else { 1 },
        };
        // Smaller tasks where there are few; that changes no sum.
        let mut columns = COLUMNS;
        let wanted = 4 * rayon::current_num_threads();
        while columns > kernel.columns && n.div_ceil(ROWS) * c.width().div_ceil(columns) < wanted {
            columns /= 2;
        }
        let tasks = tasks(c, ROWS, columns);
        let work = 2 * (n * k) as u64 * c.width() as u64;
        threads::scratch([panels * kernel.rows * k], |[packed]| {
            // For one range of columns after another, all panels.
            for start in (0..k).step_by(DEPTH) {
                let depth = DEPTH.min(k - start);
                let packed = &mut packed[panels * kernel.rows * start..][..panels * kernel.rows * depth];
                let size = kernel.rows * depth;
                threads::each_mut(packed, size, 8 * size as u64, |at, panel| {
                    let first = at * kernel.rows;
                    let rows = Rows { data: &x.data[first * x.row + start * x.column..], count: n - first, ..x };
                    kernel.pack_left(rows, depth, panel);
                });
            }
            let packed = &*packed;
            threads::each(tasks.len(), work, |i| self.task(&kernel, &tasks[i], packed, sinks));
        });
    }

    fn task(&self, kernel: &Kernel, task: &Task, packed: &[f32], sinks: &[Sink]) {
        let (n, k) = (self.config.rows, self.config.inner);
        let all = n.div_ceil(kernel.rows) * kernel.rows;
        let height = task.rows.len().next_multiple_of(kernel.rows);
        let stride = task.columns.len().next_multiple_of(kernel.columns);
        let halves = if matches!(self.weight, Values::F16(_)) { kernel.columns * DEPTH.min(k) } else { 0 };
        let room = kernel.columns * DEPTH.min(k);
        threads::scratch([height * stride, room + LINE, halves], |[sums, panel, space]| {
            sums.fill(0.0);
            let aligned = panel.as_ptr().align_offset(4 * LINE).min(LINE);
            let panel = &mut panel[aligned..][..room];
            for start in (0..k).step_by(DEPTH) {
                let depth = DEPTH.min(k - start);
                let left = &packed[all * start + task.rows.start * depth..][..height * depth];
                let panel = &mut panel[..kernel.columns * depth];
                for column in (0..task.columns.len()).step_by(kernel.columns) {
                    let count = kernel.columns.min(task.columns.len() - column);
                    let first = (task.first + task.columns.start + column) * k + start;
                    let rows = match self.weight {
                        Values::F32(weight) => Rows { data: &weight[first..], count, row: k, column: 1 },
                        _ => {
                            for (row, space) in space.chunks_exact_mut(depth).take(count).enumerate() {
                                let first = first + row * k;
                                self.weights(first..first + depth, space);
                            }
                            Rows { data: space, count, row: depth, column: 1 }
                        }
                    };
                    kernel.pack_right(rows, depth, panel);
                    kernel.multiply(left, panel, &mut sums[column..], stride);
                }
            }
            self.finish(task, sums, stride, &sinks[task.output]);
        });
    }

    /// Some elements of the weight, converted into `space` if they are f16.
    fn weights<'s>(&'s self, range: Range<usize>, space: &'s mut [f32]) -> &'s [f32] {
        match self.weight {
            Values::F16(weight) => {
                let space = &mut space[..range.len()];
                weight[range].convert_to_f32_slice(space);
                space
            }
            Values::F32(weight) => &weight[range],
            _ => unreachable!("weights are f32 or f16"),
        }
    }

    /// Writes what follows from the sums of a task, whose rows are `stride` apart.
    fn finish(&self, task: &Task, sums: &mut [f32], stride: usize, sink: &Sink) {
        let c = self.config;
        let Output { width, columns: turned } = c.outputs[task.output];
        let Task { first, rows, columns, .. } = task;
        for (row, sums) in rows.clone().zip(sums.chunks_mut(stride)) {
            let sums = &mut sums[..columns.len()];
            if c.bias {
                simd::add(sums, &self.bias[first + columns.start..][..columns.len()]);
            }
            activate(sums, c.activation);
            if !turned {
                self.follow(row * width + columns.start, sums, sink);
            }
        }
        if turned {
            threads::scratch([rows.len()], |[line]| {
                for (at, column) in columns.clone().enumerate() {
                    line.iter_mut().zip(sums[at..].iter().step_by(stride)).for_each(|(to, sum)| *to = *sum);
                    self.follow(column * c.rows + rows.start, line, sink);
                }
            });
        }
    }

    /// Applies what has the shape of the output to elements that lie side by side in it from `at` on, and writes them.
    fn follow(&self, at: usize, values: &mut [f32], sink: &Sink) {
        let c = self.config;
        if c.times {
            simd::multiply(values, &self.times[at..][..values.len()]);
        }
        if c.scale != 1.0 {
            simd::scale(values, c.scale);
        }
        if c.residual {
            simd::add(values, &self.residual[at..][..values.len()]);
        }
        // SAFETY: the elements are those of a row or column of the task, which lie within its output.
        unsafe { sink.put(at, values) };
    }
}

/// The products of all rows of x with some rows of the weight, all of k elements: `put` is called with the row of x, the row of
/// the weight, and the sum. The order of a sum does not depend on what else is multiplied.
fn products(x: &[f32], weight: &[f32], k: usize, mut put: impl FnMut(usize, usize, f32)) {
    let row = |at: usize| &x[at * k..][..k];
    let column = |at: usize| &weight[at * k..][..k];
    let (rows, columns) = (x.len() / k, weight.len() / k);
    if rows == 1 && columns == TOGETHER {
        let sums = simd::four_dots([0, 1, 2, 3].map(column), x);
        sums.into_iter().enumerate().for_each(|(m, sum)| put(0, m, sum));
        return;
    }
    for m in (0..columns).step_by(2) {
        for n in (0..rows).step_by(2) {
            if m + 1 < columns && n + 1 < rows {
                let sums = simd::pairs_of_dots([column(m), column(m + 1)], [row(n), row(n + 1)]);
                sums.into_iter().enumerate().for_each(|(i, sum)| put(n + i % 2, m + i / 2, sum));
                continue;
            }
            for m in m..columns.min(m + 2) {
                (n..rows.min(n + 2)).for_each(|n| put(n, m, simd::dot(row(n), column(m))));
            }
        }
    }
}

/// Applies the function to every element.
fn activate(x: &mut [f32], activation: Activation) {
    match activation {
        Activation::None => {}
        Activation::Silu => channels::silu(x),
        Activation::Gelu => gelus(x),
        Activation::GeluTanh => tanh_gelus(x),
        Activation::Relu => relus(x),
        Activation::Relu2 => {
            relus(x);
            x.iter_mut().for_each(|x| *x *= *x);
        }
        Activation::Sigmoid => channels::sigmoid(x),
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
    fn tanh_gelus<FUSED>(x: &mut [f32]) {
        for x in x {
            // (1 + tanh y) / 2 is the sigmoid of 2 y.
            let inner = 1.595_769 * (*x + 0.044_715 * *x * *x * *x);
            *x /= 1.0 + simd::exp_signed::<FUSED>(-inner);
        }
    }
}

simd::wide! {
    fn gelus<FUSED>(x: &mut [f32]) {
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
                p = simd::multiply_add::<FUSED>(p, t, c);
            }
            let beyond = p * t * simd::exp::<FUSED>(-0.5 * size * size);
            *x *= if *x < 0.0 { beyond } else { 1.0 - beyond };
        }
    }
}
