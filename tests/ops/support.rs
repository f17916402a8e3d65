//! What the tests of all operators share.

use std::sync::OnceLock;

use subquad::gpu::{AdapterRequest, Context, Select};
use subquad::ops::execute::{self, Run};
use subquad::ops::{Case, Op, Operator, Precision, draw, tolerance};
use subquad::tensor::{HostTensor, TensorMap};

/// The device of this run; `None`, with a printed line, where there is none and that is allowed.
pub fn context() -> Option<&'static Context> {
    static CONTEXT: OnceLock<Option<Context>> = OnceLock::new();
    CONTEXT.get_or_init(|| open(true)).as_ref()
}

/// The same adapter as programs open it: kernels with a proof of their bounds compile without checks.
pub fn unchecked_context() -> Option<&'static Context> {
    static CONTEXT: OnceLock<Option<Context>> = OnceLock::new();
    CONTEXT.get_or_init(|| open(false)).as_ref()
}

fn open(shader_checks: bool) -> Option<Context> {
    let request = AdapterRequest {
        backends: wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all()),
        select: std::env::var("WGPU_ADAPTER_NAME").ok().map(Select::Name),
        software: true,
        shader_checks,
    };
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
    let inputs = draw::inputs(op, case).unwrap_or_else(|e| panic!("{case}: {e}"));
    (operator, inputs)
}

/// Runs on the device with outputs and workspace poisoned.
pub fn on_gpu(ctx: &Context, operator: &dyn Operator, inputs: &TensorMap) -> Run {
    execute::gpu(ctx, operator, inputs, true, &mut |_| {}).unwrap()
}

/// Every output within the rule of `tolerance`.
pub fn assert_matches(what: &str, op: &Op, operator: &dyn Operator, inputs: &TensorMap, got: &TensorMap) {
    let exact = operator.reference(inputs, Precision::F64);
    let single = operator.reference(inputs, Precision::F32);
    assert_eq!(exact.len(), got.len(), "{what}: outputs are {}", got.names());
    for ((name, exact), (_, single)) in exact.iter().zip(&single) {
        let tensor = got.get(name).unwrap_or_else(|| panic!("{what}: no output `{name}`"));
        let verdict = tolerance::judge(op.name, tensor, exact, single);
        assert!(verdict.ok, "{what}: `{name}` is off by {:.2e}, {:.2e} allowed", verdict.error, verdict.bound);
    }
}

/// The same bits, tensor by tensor.
pub fn assert_same_bits(what: &str, a: &HostTensor, b: &HostTensor) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    let wrong = a.bytes().iter().zip(b.bytes()).filter(|(x, y)| x != y).count();
    assert_eq!(wrong, 0, "{what}: {wrong} of {} bytes differ", a.bytes().len());
}
