//! Criterion benches over the operators' own cases: the host side (program, plan, bind), the cpu backend, and a run on the
//! adapter at hand. Every case is checked against the definition before it is timed.
//!
//! `cargo bench --bench ops -- linear/cpu` filters by name; `-- --test` runs each once.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use subquad::gpu::{AdapterRequest, Caps, Context, Plan, Select};
use subquad::ops::execute::Prepared;
use subquad::ops::{Case, OPS, Op, Operator, Precision, draw, tolerance};
use subquad::tensor::TensorMap;

/// The longest quick case: the one whose time says most about throughput.
fn case(op: &Op) -> Case {
    (op.cases)().into_iter().filter(|c| c.quick).max_by_key(|c| c.axis(op, "N")).expect("an operator without cases")
}

fn check(op: &Op, operator: &dyn Operator, inputs: &TensorMap, outputs: &TensorMap) {
    let exact = operator.reference(inputs, Precision::F64);
    let single = operator.reference(inputs, Precision::F32);
    for ((name, exact), (_, single)) in exact.iter().zip(&single) {
        let verdict = tolerance::judge(op.name, outputs.get(name).expect("an output is missing"), exact, single);
        assert!(verdict.ok, "{} is wrong, so it is not timed: {name} {verdict:?}", op.name);
    }
}

fn adapter() -> Option<Context> {
    let request = AdapterRequest {
        backends: wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all()),
        select: std::env::var("WGPU_ADAPTER_NAME").ok().map(Select::Name),
        software: true,
        shader_checks: false,
    };
    Context::open(&request).inspect_err(|e| eprintln!("SKIPPED on a GPU: {e}")).ok()
}

fn host(c: &mut Criterion) {
    for op in OPS {
        let operator = case(op).configure(op).expect("a case its operator refuses");
        let caps = Caps::portable();
        c.bench_function(&format!("{}/program", op.name), |b| b.iter(|| black_box(operator.program(&caps))));
    }
}

fn cpu(c: &mut Criterion) {
    for op in OPS {
        let case = case(op);
        let operator = case.configure(op).expect("a case its operator refuses");
        let inputs = draw::inputs(op, &case).expect("inputs of a case");
        check(op, operator.as_ref(), &inputs, &operator.cpu(&inputs).expect("a run"));
        let mut group = c.benchmark_group(op.name);
        group.throughput(Throughput::Bytes(operator.cost().bytes() as u64));
        group.bench_function(format!("cpu/{case}"), |b| b.iter(|| black_box(operator.cpu(&inputs))));
    }
}

fn gpu(c: &mut Criterion) {
    let Some(ctx) = adapter() else { return };
    for op in OPS {
        let case = case(op);
        let operator = case.configure(op).expect("a case its operator refuses");
        let inputs = draw::inputs(op, &case).expect("inputs of a case");
        let prepared = Prepared::new(&ctx, operator.as_ref(), &inputs, false).expect("a plan");
        prepared.run(&ctx, &mut |_| {}).expect("a run");
        check(op, operator.as_ref(), &inputs, &prepared.outputs(&ctx).expect("outputs"));
        let name = ctx.info().name.clone();
        let mut group = c.benchmark_group(op.name);
        group.throughput(Throughput::Bytes(operator.cost().bytes() as u64));
        group.bench_function(format!("plan on {name}, pipelines there/{case}"), |b| {
            b.iter_batched(
                || operator.program(ctx.caps()).expect("a program"),
                |program| black_box(Plan::new(&ctx, program)),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("submit and wait on {name}/{case}"), |b| {
            b.iter(|| prepared.run(&ctx, &mut |_| {}))
        });
    }
}

criterion_group!(benches, host, cpu, gpu);
criterion_main!(benches);
