//! Criterion benchmarks over the operators' cases: the host side (program, plan, bind, encode) and the cpu backend.
//! `subquad bench` times GPUs. Each case is checked against its reference before it is timed.
//!
//! `cargo bench --bench ops -- linear/cpu` filters by name; `-- --test` runs each once.

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::gpu::{AdapterRequest, Caps, Context, Plan, Select};
use subquad::operator::{Operator, Rows};
use subquad::ops::OPS;
use subquad::tensor::TensorMap;
use subquad::verify::run::Prepared;
use subquad::verify::tolerance::Reference;

/// Quick cases in f32. The other cases only take longer to compile or use another storage type.
fn cases(op: &Op) -> impl Iterator<Item = Case> {
    (op.cases)().into_iter().filter(|case| case.quick && !case.host && case.dtype == subquad::tensor::DType::F32)
}

/// The longest of them, to show the host's cost next to a large amount of work.
fn longest(op: &Op) -> Case {
    cases(op).max_by_key(|case| case.axis(op, "N")).expect("an operator without cases")
}

fn prepare(op: &Op, case: &Case) -> (Box<dyn Operator>, TensorMap) {
    let operator = case.configure(op).expect("a case its operator refuses");
    let inputs = random::inputs(op, case).expect("inputs of a case");
    (operator, inputs)
}

fn check(op: &Op, operator: &dyn Operator, inputs: &TensorMap, outputs: &TensorMap) {
    for (name, verdict) in Reference::of(operator, inputs, Rows::All).compare(operator, inputs, Rows::All, outputs) {
        assert!(verdict.ok, "{} is wrong, so it is not timed: {name} {verdict:?}", op.name);
    }
}

fn adapter() -> Option<Context> {
    let request = AdapterRequest {
        backends: wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all()),
        select: std::env::var("WGPU_ADAPTER_NAME").ok().map(Select::Name),
        software: true,
        ..AdapterRequest::default()
    };
    Context::open(&request).inspect_err(|e| eprintln!("SKIPPED on a GPU: {e}")).ok()
}

fn group<'a>(c: &'a mut Criterion, op: &Op) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(op.name);
    // Few samples: there are many cases, and their times vary little.
    group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group
}

/// Without a device: from settings to the program for a GPU.
fn program(c: &mut Criterion) {
    let caps = Caps::portable();
    for op in OPS {
        let mut group = group(c, op);
        for case in cases(op) {
            let operator = case.configure(op).expect("a case its operator refuses");
            group.bench_function(format!("program/{case}"), |b| b.iter(|| black_box(operator.program(&caps))));
        }
    }
}

/// On the adapter found, with pipelines compiled: the cost of a new shape (plan), of new tensors (bind), and of each
/// run (encode).
fn host(c: &mut Criterion) {
    let Some(ctx) = adapter() else { return };
    for op in OPS {
        let case = longest(op);
        let (operator, inputs) = prepare(op, &case);
        let prepared = Prepared::new(&ctx, operator.as_ref(), &inputs, false).expect("a plan");
        prepared.run(&ctx, &mut |_| {}).expect("a run");
        check(op, operator.as_ref(), &inputs, &prepared.outputs(&ctx).expect("outputs"));
        let recording = prepared.bind().expect("a recording");
        let mut group = group(c, op);
        group.bench_function(format!("plan/{case}"), |b| {
            let program = || operator.program(ctx.caps()).expect("a program");
            b.iter_batched(program, |program| black_box(Plan::new(&ctx, program)), BatchSize::SmallInput);
        });
        group.bench_function(format!("bind/{case}"), |b| b.iter(|| black_box(prepared.bind())));
        group.throughput(Throughput::Elements(recording.len() as u64));
        group.bench_function(format!("encode/{case}"), |b| {
            b.iter(|| {
                let mut encoder = ctx.device().create_command_encoder(&Default::default());
                recording.encode(&mut encoder);
                black_box(encoder.finish())
            });
        });
    }
}

fn cpu(c: &mut Criterion) {
    for op in OPS {
        let mut group = group(c, op);
        for case in cases(op) {
            let (operator, inputs) = prepare(op, &case);
            check(op, operator.as_ref(), &inputs, &operator.cpu(&inputs).expect("a run"));
            group.throughput(Throughput::Bytes(operator.cost().bytes() as u64));
            group.bench_function(format!("cpu/{case}"), |b| b.iter(|| black_box(operator.cpu(&inputs))));
        }
    }
}

criterion_group!(benches, program, host, cpu);
criterion_main!(benches);
