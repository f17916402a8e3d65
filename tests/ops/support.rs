//! What the tests of all operators share.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::Trial;
use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::{Op, Role, TensorSpec};
use subquad::gpu::{AdapterRequest, Caps, Context, Plan, Program, Select};
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Rows};
use subquad::tensor::{DType, HostTensor, TensorMap, Values};
use subquad::verify::run::{self, Prepared, Run};
use subquad::verify::tolerance::Reference;

/// A trial that runs a test function, named as the function in its module: `softmax::refused_before_anything_runs`.
pub(crate) fn test<F: Fn() + Send + 'static>(function: F) -> Trial {
    Trial::test(path::<F>(), move || {
        function();
        Ok(())
    })
}

/// A trial that runs a test function for each operator: `table::layouts_hold_the_same_numbers::softmax`.
pub(crate) fn test_each<F: Fn(&Op) + Copy + Send + 'static>(
    ops: &'static [Op],
    function: F,
) -> impl Iterator<Item = Trial> {
    ops.iter().map(move |op| {
        Trial::test(format!("{}::{}", path::<F>(), op.name), move || {
            function(op);
            Ok(())
        })
    })
}

/// Where a function stands below this crate.
fn path<F>() -> &'static str {
    let path = std::any::type_name::<F>();
    path.split_once("::").map_or(path, |(_, below)| below)
}

/// How many devices share the trials. A software adapter compiles kernels on one thread of each device, and compiling is
/// most of what a run waits for.
const DEVICES: usize = 4;

/// A device for each thread that runs trials, up to [`DEVICES`]; `None` where there is no adapter and that is allowed.
struct Devices([OnceLock<Option<Context>>; DEVICES]);

impl Devices {
    /// The context of this thread, opened at its first use.
    fn mine(&self, open: impl FnOnce() -> Option<Context>) -> Option<&Context> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static MINE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % DEVICES);
        self.0[MINE.with(|mine| *mine)].get_or_init(open).as_ref()
    }
}

/// The device of this thread; `None`, with a printed line, where there is none and that is allowed.
pub(crate) fn context() -> Option<&'static Context> {
    static CHECKED: Devices = Devices([const { OnceLock::new() }; DEVICES]);
    CHECKED.mine(|| open(true))
}

/// The same adapter as programs open it: kernels with a proof of their bounds compile without checks.
pub(crate) fn unchecked_context() -> Option<&'static Context> {
    static UNCHECKED: Devices = Devices([const { OnceLock::new() }; DEVICES]);
    UNCHECKED.mine(|| open(false))
}

/// What adapter this run asks for.
pub(crate) fn request() -> AdapterRequest {
    AdapterRequest {
        backends: wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all()),
        select: std::env::var("WGPU_ADAPTER_NAME").ok().map(Select::Name),
        software: true,
        shader_checks: true,
        ..AdapterRequest::default()
    }
}

fn open(shader_checks: bool) -> Option<Context> {
    let request = AdapterRequest { shader_checks, ..request() };
    match Context::open(&request) {
        Ok(ctx) => {
            eprintln!("adapter: {} ({}, {})", ctx.info().name, ctx.info().backend, ctx.info().driver_info);
            Some(ctx)
        }
        Err(error) if std::env::var("SUBQUAD_ALLOW_NO_ADAPTER").is_ok_and(|v| v == "1") => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}; set SUBQUAD_ALLOW_NO_ADAPTER=1 to run the tests that need none"),
    }
}

/// Cases of an operator: all, or the quick ones under SUBQUAD_QUICK=1.
pub(crate) fn cases(op: &Op) -> Vec<Case> {
    let quick = std::env::var("SUBQUAD_QUICK").is_ok_and(|v| v == "1");
    (op.cases)().into_iter().filter(|case| case.quick || !quick).collect()
}

/// The operator and the inputs of a case.
pub(crate) fn prepare(op: &Op, case: &Case) -> (Box<dyn Operator>, TensorMap) {
    let operator = case.configure(op).unwrap_or_else(|e| panic!("{case}: {e}"));
    let inputs = random::inputs(op, case).unwrap_or_else(|e| panic!("{case}: {e}"));
    (operator, inputs)
}

/// Runs on the device with outputs and workspace poisoned.
pub(crate) fn on_gpu(ctx: &Context, operator: &dyn Operator, inputs: &TensorMap) -> Run {
    run::gpu(ctx, operator, inputs, true, &mut |_| {}).unwrap()
}

/// Outputs of a program of the operator for other capabilities than those of the device, with outputs and workspace poisoned.
pub(crate) fn on_gpu_with(ctx: &Context, program: Program, inputs: &TensorMap) -> TensorMap {
    let prepared = Prepared::of(ctx, Plan::new(ctx, program).unwrap(), inputs, true).unwrap();
    prepared.run(ctx, &mut |_| {}).unwrap();
    prepared.outputs(ctx).unwrap()
}

/// Every output within the rule of `tolerance`.
pub(crate) fn assert_matches(what: &str, operator: &dyn Operator, inputs: &TensorMap, got: &TensorMap) {
    assert_within(what, &Reference::of(operator, inputs, Rows::All), operator, inputs, got);
}

/// Every output within the rule of `tolerance`, by the reference of this operator and these inputs.
pub(crate) fn assert_within(
    what: &str,
    reference: &Reference,
    operator: &dyn Operator,
    inputs: &TensorMap,
    got: &TensorMap,
) {
    let verdicts = reference.compare(operator, inputs, Rows::All, got);
    assert_eq!(verdicts.len(), got.len(), "{what}: outputs are {}", got.names());
    // The logarithm of nothing is a value, which no other stands for.
    for (name, exact) in reference.exact() {
        let same = |(exact, got): (&f64, f64)| *exact != f64::NEG_INFINITY || got == f64::NEG_INFINITY;
        let got = got.get(name).map(HostTensor::to_f64).unwrap_or_default();
        assert!(exact.iter().zip(got).all(same), "{what}: `{name}`: minus infinity is another value");
    }
    for (name, verdict) in verdicts {
        assert!(verdict.ok, "{what}: `{name}`: {verdict:?}");
    }
}

/// The same bits, tensor by tensor.
pub(crate) fn assert_same_bits(what: &str, a: &HostTensor, b: &HostTensor) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    let wrong = a.bytes().iter().zip(b.bytes()).filter(|(x, y)| x != y).count();
    assert_eq!(wrong, 0, "{what}: {wrong} of {} bytes differ", a.bytes().len());
}

/// Random q, k and v of these shapes.
pub(crate) fn inputs(s: &Qkv) -> TensorMap {
    let random = |heads, len, dim, stream| {
        let shape = s.layout.shape(s.batch, heads, len, dim);
        let values = random::normal(11, stream, shape.count());
        HostTensor::f32(shape, values).cast(s.dtype)
    };
    let mut map = TensorMap::new();
    map.insert("q", random(s.heads, s.queries, s.dim_k, 0));
    map.insert("k", random(s.kv_heads, s.keys, s.dim_k, 1));
    map.insert("v", random(s.kv_heads, s.keys, s.dim_v, 2));
    map
}

/// Tokens `range` of a `[B, H, N, D]` or `[B, H, N]` tensor.
pub(crate) fn tokens(t: &HostTensor, range: Range<usize>) -> HostTensor {
    let mut d = t.shape().dims().to_vec();
    let (outer, len, dim) = (d[0] * d[1], d[2], d.get(3).copied().unwrap_or(1));
    let values = t.to_f32();
    let mut cut = Vec::new();
    for i in 0..outer {
        cut.extend_from_slice(&values[(i * len + range.start) * dim..(i * len + range.end) * dim]);
    }
    d[2] = range.len();
    HostTensor::f32(d, cut)
}

/// How a backend runs an operator.
pub(crate) type Runner = Box<dyn Fn(&dyn Operator, &TensorMap) -> TensorMap>;

/// The backends of this run.
pub(crate) fn backends() -> Vec<(&'static str, Runner)> {
    let mut list: Vec<(&'static str, Runner)> =
        vec![("cpu", Box::new(|c: &dyn Operator, t: &TensorMap| c.cpu(t).unwrap()))];
    if let Some(ctx) = context() {
        list.push(("gpu", Box::new(move |c: &dyn Operator, t: &TensorMap| on_gpu(ctx, c, t).outputs)));
    }
    list
}

/// The backends that store this type.
pub(crate) fn backends_for(dtype: DType) -> impl Iterator<Item = (&'static str, Runner)> {
    let f16 = context().is_none_or(|ctx| ctx.caps().f16);
    backends().into_iter().filter(move |(name, _)| {
        let stores = dtype != DType::F16 || *name == "cpu" || f16;
        if !stores {
            eprintln!("SKIPPED: no f16 on this {name}");
        }
        stores
    })
}

/// A portable device with f16, whose buffers and bindings are as large as anything.
pub(crate) fn roomy() -> Caps {
    let portable = Caps::portable();
    let limits = wgpu::Limits {
        max_buffer_size: u64::MAX,
        max_storage_buffer_binding_size: u64::MAX,
        ..portable.limits.clone()
    };
    Caps { f16: true, limits, ..portable }
}

/// Tokens `range` of a tensor whose last axis is the length.
pub(crate) fn last(t: &HostTensor, range: Range<usize>) -> HostTensor {
    let mut dims = t.shape().dims().to_vec();
    let length = dims.pop().unwrap();
    let cut = t.to_f32().chunks_exact(length).flat_map(|row| row[range.clone()].to_vec()).collect();
    dims.push(range.len());
    HostTensor::f32(dims, cut).cast(t.dtype())
}

/// The axis of a tensor that runs along the sequence; `None` if it has none.
pub(crate) fn length_axis(specs: &[TensorSpec], case: &Case, name: &str) -> Option<usize> {
    let spec = specs.iter().find(|spec| spec.name == name && spec.role == Role::Sequence)?;
    let mut forms = spec.each_form(case.layout);
    let own = forms.next();
    let (_, letters) = forms.find(|(name, _)| case.with.contains(name)).or(own)?;
    letters.iter().position(|letter| ["N", "M"].contains(letter))
}

/// Tokens `from..to` along an axis.
pub(crate) fn cut(tensor: &HostTensor, axis: usize, from: usize, to: usize) -> HostTensor {
    fn part<T: Copy>(values: &[T], row: usize, from: usize, to: usize) -> Vec<T> {
        values.chunks_exact(row).flat_map(|row| &row[from..to]).copied().collect()
    }
    let mut dims = tensor.shape().dims().to_vec();
    let inner: usize = dims[axis + 1..].iter().product();
    let (row, from_at, to_at) = (dims[axis] * inner, from * inner, to * inner);
    dims[axis] = to - from;
    let values = match tensor.values() {
        Values::F32(v) => Values::F32(part(v, row, from_at, to_at).into()),
        Values::F16(v) => Values::F16(part(v, row, from_at, to_at).into()),
        Values::I64(v) => Values::I64(part(v, row, from_at, to_at)),
        Values::I32(v) => Values::I32(part(v, row, from_at, to_at)),
        Values::U32(v) => Values::U32(part(v, row, from_at, to_at)),
        Values::U8(v) => Values::U8(part(v, row, from_at, to_at)),
    };
    HostTensor::new(dims, values)
}
