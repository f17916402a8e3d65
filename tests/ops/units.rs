//! The chunk form of the recurrences by matrix units: when a plan takes it, and what it computes, by the units of the adapter if it
//! has any, and by their emulation on every adapter with f16.

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::gpu::{Algorithm, Caps, Context, Matrix, Program};
use subquad::operator::Operator;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::ops::{all, find, linear, ssd};
use subquad::tensor::{DType, HostTensor, TensorMap};

use crate::bytes::moved_by;
use crate::cover::{Programs, covering, runs_everything};
use crate::matrix::{forms_with, lacks};
use crate::support::{assert_matches, context, inputs, on_gpu_with, prepare, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![
        test(plans_take_them_for_f16_and_say_so),
        test(numbers_of_any_size_match_the_definition),
        test(wide_heads_match_the_definition),
        test(later_tokens_do_not_affect_earlier_ones),
    ];
    let device = Caps { recurrence: Algorithm::Chunks, ..device(EMULATED) };
    let programs = Programs { caps: &device, entries: Some(&ENTRIES) };
    for op in all() {
        let by_units = |case: &Case| {
            let program = case.configure(op).and_then(|operator| operator.program(&device));
            case.quick && !case.host && program.is_ok_and(|program| takes_units(&program))
        };
        let here = |case: &Case| runs_everything() || FEW.contains(&&*case.name);
        trials.extend(covering(op, &programs, by_units).into_iter().filter(here).map(|case| {
            Trial::ignorable_test(format!("units::{}::{case}", op.name), move || matches_the_definition(op, &case))
        }));
    }
    if runs_everything() {
        trials.push(Trial::ignorable_test("units::bytes", moves_what_it_states));
    }
    trials
}

/// Matrices that every adapter with f16 multiplies, and other subgroups: workgroups of 256, of 128, and of 64 invocations.
pub(crate) const EMULATED: Matrix = Matrix { tile: 16, lanes: 64, emulated: true };
const SMALLER: [Matrix; 2] = [Matrix { lanes: 32, ..EMULATED }, Matrix { lanes: 16, ..EMULATED }];

/// Entry points of their kernels: outputs, and states of segments. A walk computes the states where one is carried, which is an
/// output in f32.
const ENTRIES: [&str; 2] = ["recurrence_chunk_matrix", "recurrence_segment_matrix"];

/// Cases of software adapters, which take ten seconds to compile the emulation for each: normalised, with decays, packed in both
/// directions, with heads that share keys, and with an epilogue.
const FEW: [&str; 5] = ["f16", "gated_head_f16", "gated_all_packed_both", "grouped_f16", "all_f16"];

fn takes_units(program: &Program) -> bool {
    program.steps().iter().any(|step| step.kernel.entry == ENTRIES[0])
}

/// A device with these units.
fn device(units: Matrix) -> Caps {
    let limits = wgpu::Limits { max_compute_workgroup_storage_size: 32768, ..wgpu::Limits::default() };
    Caps { f16: true, limits, matrix: Some(units), registers: 256, ..Caps::portable() }
}

fn in_chunks(operator: &dyn Operator, caps: &Caps) -> Program {
    let program = operator.program(&Caps { recurrence: Algorithm::Chunks, ..caps.clone() }).unwrap();
    assert!(takes_units(&program), "{program}");
    program
}

fn matches_the_definition(op: &Op, case: &Case) -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    if let Some(reason) = lacks(ctx) {
        return Ok(Completion::ignored_with(reason));
    }
    let (operator, inputs) = prepare(op, case);
    for caps in forms_with(ctx, EMULATED) {
        let got = on_gpu_with(ctx, in_chunks(operator.as_ref(), &caps), &inputs);
        assert_matches(&format!("{:?}", caps.matrix), operator.as_ref(), &inputs, &got);
    }
    Ok(Completion::Completed)
}

const HALF: Qkv = Qkv::new().dtype(DType::F16);

fn plans_take_them_for_f16_and_say_so() {
    let shape = HALF.heads(8).len(4096).dim(64);
    let gated = |qkv| linear::Config::new(qkv).rule(linear::Rule::Gated(linear::Gate::Head));
    for (tile, lanes) in [(8, 8), (8, 32), (16, 32), (16, 64)] {
        let caps = device(Matrix { tile, lanes, emulated: false });
        let said = |operator: &dyn Operator, caps: &Caps| {
            let program = operator.program(caps).unwrap();
            (takes_units(&program), program.variant().to_owned())
        };
        let ssd = ssd::Config { dtype: DType::F16, ..ssd::Config::new(4096, 24, 64, 128) };
        let operators: [&dyn Operator; 3] = [&linear::Config::new(shape), &gated(shape), &ssd];
        for operator in operators {
            let expected = format!("products of chunks of 64 tokens by matrix units of {tile}x{tile}, segments of 128");
            assert_eq!(said(operator, &caps), (true, expected));
            let entries =
                operator.program(&caps).unwrap().steps().iter().map(|step| step.kernel.entry).collect::<Vec<_>>();
            assert_eq!(entries, [ENTRIES[1], "recurrence_scan", ENTRIES[0]]);
            assert!(!said(operator, &Caps { matrix: None, ..caps.clone() }).0);
            assert!(!said(operator, &Caps { software: true, ..caps.clone() }).0);
        }
        for qkv in [shape.dim(129), shape.dtype(DType::F32), shape.len(64)] {
            assert!(!said(&gated(qkv), &caps).0, "{qkv:?}");
        }
        let small = wgpu::Limits { max_compute_workgroup_storage_size: 16384, ..caps.limits.clone() };
        assert!(!said(&gated(shape), &Caps { limits: small, ..caps.clone() }).0);
        let few = wgpu::Limits { max_compute_invocations_per_workgroup: 4 * lanes - 1, ..caps.limits.clone() };
        assert!(!said(&gated(shape), &Caps { limits: few, ..caps }).0);
    }
}

fn assert_definition(ctx: &Context, emulated: Matrix, operator: &dyn Operator, inputs: &TensorMap, what: &str) {
    for caps in forms_with(ctx, emulated) {
        let got = on_gpu_with(ctx, in_chunks(operator, &caps), inputs);
        assert_matches(&format!("{what}, {:?}", caps.matrix), operator, inputs, &got);
    }
}

/// These tensors, each number as `map` makes it of its index.
fn changed(inputs: &mut TensorMap, name: &str, map: impl Fn(usize, f32) -> f32) {
    let given = inputs.get(name).unwrap();
    let values = given.to_f32().iter().enumerate().map(|(i, x)| map(i, *x)).collect();
    let made = HostTensor::f32(given.shape().clone(), values).cast(given.dtype());
    inputs.insert(name, made);
}

/// States, factors and weights that f16 does not hold, or holds with few bits: their units follow them.
fn numbers_of_any_size_match_the_definition() {
    let Some(ctx) = context().filter(|ctx| lacks(ctx).is_none()) else { return };
    let qkv = HALF.len(150).dim(24).dim_v(20);
    let identity = Some(linear::FeatureMap::Identity);
    let plain = linear::Config { feature_map: identity, normalize: Some(false), ..linear::Config::new(qkv) };
    let carried = linear::Config { mode: Mode::new().carry(), ..plain.clone() };
    let gated = |config: &linear::Config| config.clone().rule(linear::Rule::Gated(linear::Gate::Head));
    for (config, of_k, of_v, of_state) in [
        (carried.clone(), 100.0, 300.0, 1e5),
        (linear::Config::new(qkv), 6e3, 1e4, 0.0),
        (gated(&carried), 1e-2, 1e-3, 1e-9),
        (gated(&plain), 200.0, 2e-5, 0.0),
    ] {
        let mut all = inputs(&config.qkv);
        for (name, factor) in [("q", 1e-3), ("k", of_k), ("v", of_v)] {
            changed(&mut all, name, |_, x| x * factor);
        }
        if config.mode.carry {
            let state = random::normal(3, 9, 480).iter().map(|x| x * of_state).collect();
            all.insert("state", HostTensor::f32([1, 1, 24, 20], state));
        }
        if config.rule.gate().is_some() {
            // The state almost vanishes now and then, and grows before.
            let log = |t: usize| if t % 40 == 39 { -20.0 } else { 0.02 };
            all.insert("g", HostTensor::f32([1, 1, 150], (0..150).map(log).collect()).cast(DType::F16));
        }
        let what = format!("{of_k} {of_v} {of_state}");
        assert_definition(ctx, EMULATED, &config, &all, &what);
    }
    // Features of keys that all vanish in f16, until one token has large ones in the last chunk.
    let config = linear::Config::new(qkv);
    let mut all = inputs(&qkv);
    changed(&mut all, "k", |i, x| if i / 24 == 140 { x } else { x - 19.0 });
    assert_definition(ctx, EMULATED, &config, &all, "small features");
}

/// Two blocks of rows of the state, two column splits, and several slices of features.
fn wide_heads_match_the_definition() {
    let Some(ctx) = context().filter(|ctx| lacks(ctx).is_none()) else { return };
    let wide = HALF.heads(2).kv_heads(1).len(200).dim(100).dim_v(72);
    assert_definition(ctx, SMALLER[0], &linear::Config::new(wide), &inputs(&wide), "linear");
    let op = find("ssd").unwrap();
    let case = (op.cases)().into_iter().find(|case| case.name == "all_f16").unwrap();
    let longer = [("N", 200), ("H", 2), ("P", 70), ("S", 128), ("G", 1)];
    let case = Case { axes: longer.into(), ..case };
    let (operator, mut inputs) = prepare(op, &case);
    // Steps that grow and shrink by orders of magnitude.
    changed(&mut inputs, "dt", |i, x| x + [0.0, -6.0, 2.0, -9.0][i / 64 % 4]);
    assert_definition(ctx, SMALLER[1], operator.as_ref(), &inputs, "ssd");
}

/// Finite inputs never affect earlier outputs, also where products of them overflow.
fn later_tokens_do_not_affect_earlier_ones() {
    let Some(ctx) = context().filter(|ctx| lacks(ctx).is_none()) else { return };
    let qkv = HALF.len(150).dim(24).dim_v(20);
    let identity = Some(linear::FeatureMap::Identity);
    let config = linear::Config { feature_map: identity, normalize: Some(false), ..linear::Config::new(qkv) };
    let given = inputs(&qkv);
    let mut later = given.clone();
    for (name, dim) in [("q", 24), ("k", 24), ("v", 20)] {
        changed(&mut later, name, |i, x| if i / dim >= 100 { 6e4 } else { x });
    }
    for caps in forms_with(ctx, EMULATED) {
        let [first, second] = [&given, &later].map(|inputs| on_gpu_with(ctx, in_chunks(&config, &caps), inputs));
        let [first, second] = [&first, &second].map(|outputs| outputs.get("o").unwrap().to_f32()[..100 * 20].to_vec());
        assert_eq!(first, second);
    }
}

/// Counters count elements in words: those of q, k, v and o have half a word.
fn moves_what_it_states() -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    if let Some(reason) = lacks(ctx) {
        return Ok(Completion::ignored_with(reason));
    }
    let caps = forms_with(ctx, EMULATED).pop().unwrap();
    let tokens = 200;
    for (dim, dim_v) in [(24, 20), (21, 19), (96, 70)] {
        let qkv = HALF.heads(2).len(tokens).dim(dim).dim_v(dim_v);
        let config = linear::Config { mode: Mode::new().segment(128), ..linear::Config::new(qkv) };
        let (stated, [read, written]) = moved_by(ctx, in_chunks(&config, &caps), &inputs(&qkv));
        let halves = [(read - stated.bytes_read) / 2.0, (written - stated.bytes_written) / 2.0];
        // Chunks of 64, 64, 64 and 8 tokens: the second of a segment is multiplied with the first, too.
        let (queries, keys) = (64 + 2 * 64 + 64 + 2 * 8, 200 + 64 + 128 + 64 + 72);
        let splits = dim_v.div_ceil(64);
        let loaded = splits * dim * (queries + keys) + dim_v * keys;
        assert_eq!(halves, [loaded, dim_v * tokens].map(|each| (2 * each) as f64), "{qkv:?}");
    }
    Ok(Completion::Completed)
}
