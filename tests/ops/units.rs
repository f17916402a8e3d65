//! The chunk form of the recurrences by matrix units: when a plan takes it, and what it computes, by the units of the adapter if it
//! has any, and by their emulation on every adapter with f16.

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::spec::Op;
use subquad::gpu::{Algorithm, Caps, Matrix, Program};
use subquad::operator::Operator;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::ops::{all, linear, ssd};
use subquad::tensor::{DType, HostTensor};

use crate::bytes::moved_by;
use crate::cover::{Programs, covering, runs_everything};
use crate::matrix::{EMULATED, forms, lacks};
use crate::support::{assert_matches, context, inputs, on_gpu_with, prepare, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![test(plans_take_them_for_f16_and_say_so), test(numbers_of_any_size_match_the_definition)];
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
    for caps in forms(ctx) {
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

/// States and weights that f16 does not hold, or holds with few bits: their units follow them.
fn numbers_of_any_size_match_the_definition() {
    let Some(ctx) = context().filter(|ctx| lacks(ctx).is_none()) else { return };
    let qkv = HALF.len(150).dim(24).dim_v(20);
    let identity = Some(linear::FeatureMap::Identity);
    let plain = linear::Config {
        mode: Mode::new().carry(),
        feature_map: identity,
        normalize: Some(false),
        ..linear::Config::new(qkv)
    };
    let gated = plain.clone().rule(linear::Rule::Gated(linear::Gate::Head));
    for (config, of_k, of_v, of_state) in [
        (plain, 100.0, 300.0, 1e5),
        (linear::Config::new(qkv), 6e3, 1e4, 0.0),
        (gated.clone(), 1e-2, 1e-3, 1e-9),
        (gated, 200.0, 2e-5, 1.0),
    ] {
        let mut all = inputs(&config.qkv);
        let scale = |tensor: &HostTensor, factor: f32| {
            HostTensor::f32(tensor.shape().clone(), tensor.to_f32().iter().map(|x| x * factor).collect())
        };
        for (name, factor) in [("q", 1e-3), ("k", of_k), ("v", of_v)] {
            all.insert(name, scale(all.get(name).unwrap(), factor).cast(DType::F16));
        }
        if config.mode.carry {
            let state = HostTensor::f32([1, 1, 24, 20], subquad::catalog::random::normal(3, 9, 480));
            all.insert("state", scale(&state, of_state));
        }
        if config.rule.gate().is_some() {
            // The state almost vanishes now and then.
            let log = |t: usize| if t % 40 == 39 { -20.0 } else { -0.01 };
            all.insert("g", HostTensor::f32([1, 1, 150], (0..150).map(log).collect()).cast(DType::F16));
        }
        for caps in forms(ctx) {
            let what = format!("{:?} {of_k} {of_v} {of_state}", caps.matrix);
            assert_matches(&what, &config, &all, &on_gpu_with(ctx, in_chunks(&config, &caps), &all));
        }
    }
}

/// Counters count elements in words: those of q, k, v and o have half a word.
fn moves_what_it_states() -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    if let Some(reason) = lacks(ctx) {
        return Ok(Completion::ignored_with(reason));
    }
    let caps = forms(ctx).pop().unwrap();
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
