//! What the tests of all operators share.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::Trial;
use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::gpu::{AdapterRequest, Caps, Context, Select};
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Rows};
use subquad::tensor::{DType, HostTensor, TensorMap};
use subquad::verify::run::{self, Run};
use subquad::verify::tolerance::Reference;

/// A trial that runs a test function, named as the function in its module: `softmax::refused_before_anything_runs`.
pub fn test<F: Fn() + Send + 'static>(function: F) -> Trial {
    Trial::test(path::<F>(), move || {
        function();
        Ok(())
    })
}

/// A trial that runs a test function for each operator: `table::layouts_hold_the_same_numbers::softmax`.
pub fn test_each<F: Fn(&Op) + Copy + Send + 'static>(ops: &'static [Op], function: F) -> impl Iterator<Item = Trial> {
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
pub fn context() -> Option<&'static Context> {
    static CHECKED: Devices = Devices([const { OnceLock::new() }; DEVICES]);
    CHECKED.mine(|| open(true))
}

/// The same adapter as programs open it: kernels with a proof of their bounds compile without checks.
pub fn unchecked_context() -> Option<&'static Context> {
    static UNCHECKED: Devices = Devices([const { OnceLock::new() }; DEVICES]);
    UNCHECKED.mine(|| open(false))
}

/// What adapter this run asks for.
pub fn request() -> AdapterRequest {
    AdapterRequest {
        backends: wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all()),
        select: std::env::var("WGPU_ADAPTER_NAME").ok().map(Select::Name),
        software: true,
        shader_checks: true,
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
pub fn cases(op: &Op) -> Vec<Case> {
    let quick = std::env::var("SUBQUAD_QUICK").is_ok_and(|v| v == "1");
    (op.cases)().into_iter().filter(|case| case.quick || !quick).collect()
}

/// The operator and the inputs of a case.
pub fn prepare(op: &Op, case: &Case) -> (Box<dyn Operator>, TensorMap) {
    let operator = case.configure(op).unwrap_or_else(|e| panic!("{case}: {e}"));
    let inputs = random::inputs(op, case).unwrap_or_else(|e| panic!("{case}: {e}"));
    (operator, inputs)
}

/// Runs on the device with outputs and workspace poisoned.
pub fn on_gpu(ctx: &Context, operator: &dyn Operator, inputs: &TensorMap) -> Run {
    run::gpu(ctx, operator, inputs, true, &mut |_| {}).unwrap()
}

/// Every output within the rule of `tolerance`.
pub fn assert_matches(what: &str, op: &Op, operator: &dyn Operator, inputs: &TensorMap, got: &TensorMap) {
    let verdicts = Reference::of(operator, inputs, Rows::All).compare(op.name, got);
    assert_eq!(verdicts.len(), got.len(), "{what}: outputs are {}", got.names());
    for (name, verdict) in verdicts {
        assert!(verdict.ok, "{what}: `{name}` is off by {:.2e}, {:.2e} allowed", verdict.error, verdict.bound);
    }
}

/// The same bits, tensor by tensor.
pub fn assert_same_bits(what: &str, a: &HostTensor, b: &HostTensor) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    let wrong = a.bytes().iter().zip(b.bytes()).filter(|(x, y)| x != y).count();
    assert_eq!(wrong, 0, "{what}: {wrong} of {} bytes differ", a.bytes().len());
}

/// Random q, k and v of these shapes.
pub fn inputs(s: &Qkv) -> TensorMap {
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
pub fn tokens(t: &HostTensor, range: Range<usize>) -> HostTensor {
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

/// Runs an operator of so many tokens in pieces, each from the state that the one before left, and puts the outputs
/// together. Layout bhnd; tensors that are not along the sequence go to every piece.
pub fn in_pieces(run: &dyn Fn(usize, &TensorMap) -> TensorMap, all: &TensorMap, cuts: &[usize]) -> TensorMap {
    let mut state = TensorMap::new();
    let mut out: Vec<HostTensor> = Vec::new();
    for pair in cuts.windows(2) {
        let cut = |(name, t): (&str, &HostTensor)| {
            let along = ["q", "k", "v", "g", "beta", "gamma"].contains(&name);
            (name.to_owned(), if along { tokens(t, pair[0]..pair[1]) } else { t.clone() })
        };
        let mut piece: TensorMap = all.iter().map(cut).collect();
        state.into_iter().for_each(|(name, t)| piece.insert(name, t));
        let mut got = run(pair[1] - pair[0], &piece);
        out.push(got.remove("o").unwrap());
        state = got;
    }
    let d = out[0].shape().dims().to_vec();
    let mut o = Vec::new();
    for i in 0..d[0] * d[1] {
        for piece in &out {
            let row = piece.shape().dims()[2] * d[3];
            o.extend_from_slice(&piece.to_f32()[i * row..(i + 1) * row]);
        }
    }
    let mut result = TensorMap::new();
    result.insert("o", HostTensor::f32([d[0], d[1], *cuts.last().unwrap(), d[3]], o));
    state.into_iter().for_each(|(name, t)| result.insert(name, t));
    result
}

/// How a backend runs an operator.
pub type Runner = Box<dyn Fn(&dyn Operator, &TensorMap) -> TensorMap>;

/// The backends of this run.
pub fn backends() -> Vec<(&'static str, Runner)> {
    let mut list: Vec<(&'static str, Runner)> =
        vec![("cpu", Box::new(|c: &dyn Operator, t: &TensorMap| c.cpu(t).unwrap()))];
    if let Some(ctx) = context() {
        list.push(("gpu", Box::new(move |c: &dyn Operator, t: &TensorMap| on_gpu(ctx, c, t).outputs)));
    }
    list
}

/// Those of them that store this type.
pub fn backends_for(dtype: DType) -> impl Iterator<Item = (&'static str, Runner)> {
    let f16 = context().is_none_or(|ctx| ctx.caps().f16);
    backends().into_iter().filter(move |(name, _)| {
        let stores = dtype != DType::F16 || *name == "cpu" || f16;
        if !stores {
            eprintln!("SKIPPED: no f16 on this {name}");
        }
        stores
    })
}

/// Changing tokens from `at` on leaves earlier outputs as they are, bit for bit, and changes their own. As many keys as
/// queries, layout bhnd.
pub fn assert_no_look_ahead(c: &dyn Operator, s: &Qkv, tokens_changed: &[usize]) {
    assert_no_look_ahead_from(c, s, &inputs(s), tokens_changed, &backends_for(s.dtype).collect::<Vec<_>>());
}

/// The same with the inputs and on the backends given.
pub fn assert_no_look_ahead_from(
    c: &dyn Operator,
    s: &Qkv,
    before: &TensorMap,
    tokens_changed: &[usize],
    on: &[(&'static str, Runner)],
) {
    for &at in tokens_changed {
        let mut after = before.clone();
        for name in ["q", "k", "v"] {
            let t = before.get(name).unwrap();
            let (mut values, shape) = (t.to_f32(), t.shape().clone());
            let dim = shape.dims()[3];
            for head in values.chunks_exact_mut(s.queries * dim) {
                head[at * dim..].iter_mut().for_each(|x| *x = -3.0 * *x + 100.0);
            }
            after.insert(name, HostTensor::f32(shape, values).cast(s.dtype));
        }
        for (backend, run) in on {
            let (a, b) = (run(c, before), run(c, &after));
            let cut = |map: &TensorMap, range| tokens(map.get("o").unwrap(), range);
            assert_same_bits(&format!("{backend}, token {at} changed: {s:?}"), &cut(&a, 0..at), &cut(&b, 0..at));
            let own = at..at + 1;
            assert_ne!(cut(&a, own.clone()).bytes(), cut(&b, own).bytes(), "{backend}: token {at} is not read");
        }
    }
}

/// A portable device with f16, whose buffers and bindings are as large as anything.
pub fn roomy() -> Caps {
    let portable = Caps::portable();
    let limits = wgpu::Limits {
        max_buffer_size: u64::MAX,
        max_storage_buffer_binding_size: u64::MAX,
        ..portable.limits.clone()
    };
    Caps { f16: true, limits, ..portable }
}

/// Tokens `range` of a tensor whose last axis is the length.
pub fn last(t: &HostTensor, range: Range<usize>) -> HostTensor {
    let mut dims = t.shape().dims().to_vec();
    let length = dims.pop().unwrap();
    let cut = t.to_f32().chunks_exact(length).flat_map(|row| row[range.clone()].to_vec()).collect();
    dims.push(range.len());
    HostTensor::f32(dims, cut).cast(t.dtype())
}

/// As [`in_pieces`], of tensors whose last axis is the length, those `along`, and an output `y`.
pub fn channels_in_pieces(
    run: &dyn Fn(usize, &TensorMap) -> TensorMap,
    all: &TensorMap,
    along: &[&str],
    cuts: &[usize],
) -> TensorMap {
    let (mut state, mut pieces) = (TensorMap::new(), Vec::new());
    for pair in cuts.windows(2) {
        let cut = |(name, t): (&str, &HostTensor)| {
            (name.to_owned(), if along.contains(&name) { last(t, pair[0]..pair[1]) } else { t.clone() })
        };
        let mut piece: TensorMap = all.iter().map(cut).collect();
        state.into_iter().for_each(|(name, t)| piece.insert(name, t));
        state = run(pair[1] - pair[0], &piece);
        pieces.push(state.remove("y").unwrap());
    }
    let mut dims = pieces[0].shape().dims().to_vec();
    let rows = dims[0] * dims[1];
    let row = |piece: &HostTensor, row: usize| {
        let length = piece.shape().dims()[2];
        piece.to_f32()[row * length..][..length].to_vec()
    };
    let values = (0..rows).flat_map(|i| pieces.iter().flat_map(move |piece| row(piece, i))).collect();
    dims[2] = *cuts.last().unwrap();
    let mut result = TensorMap::new();
    result.insert("y", HostTensor::f32(dims, values).cast(pieces[0].dtype()));
    state.into_iter().for_each(|(name, t)| result.insert(name, t));
    result
}
