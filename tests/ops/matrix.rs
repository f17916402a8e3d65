//! The attention core's form for matrix units: when a plan takes it, and what it computes, by the units of the adapter if it
//! has any, and by their emulation on every adapter with f16.

use libtest_mimic::{Completion, Failed, Trial};
use subquad::gpu::{Caps, Context, Matrix, Program, limits};
use subquad::operator::Operator;
use subquad::operator::qkv::Qkv;
use subquad::ops::{softmax, yat};
use subquad::tensor::{DType, HostTensor, Layout, TensorMap, Values};

use crate::bytes::moved_by;
use crate::support::{assert_matches, context, inputs, on_gpu_with, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![
        test(f16_storage_with_many_rows_takes_matrix_units),
        test(a_plan_takes_it_exactly_where_its_workgroup_memory_fits),
        test(references_that_move_change_no_result),
    ];
    let quick = std::env::var("SUBQUAD_QUICK").is_ok_and(|v| v == "1");
    let wanted = cases().into_iter().filter(|case| case.quick || !quick);
    trials.extend(wanted.map(|case| Trial::ignorable_test(format!("matrix::{}", case.name), move || run(&case))));
    trials.push(Trial::ignorable_test("matrix::bytes", moves_what_it_states));
    trials
}

const HALF: Qkv = Qkv::new().dtype(DType::F16);

fn device(tile: u32, lanes: u32) -> Caps {
    let limits = wgpu::Limits { max_compute_workgroup_storage_size: 32768, ..wgpu::Limits::default() };
    Caps { f16: true, limits, matrix: Some(Matrix { tile, lanes, emulated: false }), ..Caps::portable() }
}

const DEVICES: [(u32, u32); 3] = [(8, 8), (16, 32), (16, 64)];

fn takes(program: &Program) -> bool {
    program.steps().iter().any(|step| step.kernel.entry == "attention_matrix")
}

fn f16_storage_with_many_rows_takes_matrix_units() {
    let shape = |queries, dim| HALF.heads(8).len(queries).dim(dim).keys(4096);
    let program = |qkv, caps: &Caps| softmax::Config::new(qkv).program(caps).unwrap();
    for (tile, lanes) in DEVICES {
        let caps = device(tile, lanes);
        for dim in [1, 7, 64, 128] {
            let program = program(shape(512, dim).layout(Layout::Bnhd), &caps);
            assert!(takes(&program), "{program}");
            let expected = format!("matrix units of {tile}x{tile}, tiles of 64 queries x 1 heads by 32 keys");
            assert_eq!(program.variant(), expected);
        }
        assert!(takes(&yat::Config::new(shape(512, 64)).program(&caps).unwrap()));
        for qkv in [shape(512, 129), shape(512, 64).dtype(DType::F32), shape(31, 64), shape(1, 64)] {
            assert!(!takes(&program(qkv, &caps)), "{qkv:?}");
        }
        // Query heads that share a key head fill a block together.
        assert!(takes(&program(shape(16, 64).batch(256).kv_heads(2), &caps)));
        assert!(!takes(&program(shape(512, 64), &Caps { matrix: None, ..caps.clone() })));
        let narrow = wgpu::Limits { max_compute_invocations_per_workgroup: 4 * lanes - 1, ..caps.limits.clone() };
        assert!(!takes(&program(shape(512, 64), &Caps { limits: narrow, ..caps })));
    }
}

fn a_plan_takes_it_exactly_where_its_workgroup_memory_fits() {
    for (tile, lanes) in DEVICES {
        let caps = device(tile, lanes);
        for dim in [3, 24, 64, 80, 128] {
            let qkv = HALF.heads(8).len(512).dim(dim);
            // The operator that needs most.
            let config = yat::Config::new(qkv);
            let step = config.program(&caps).unwrap().steps()[0].clone();
            let resolved = limits::resolve(step.kernel, &step.spec).unwrap();
            let needs = limits::needs(step.kernel, &step.spec, &resolved).unwrap();
            assert_eq!(needs.workgroup, [4 * lanes, 1, 1]);
            for (bytes, fits) in [(needs.workgroup_bytes, true), (needs.workgroup_bytes - 1, false)] {
                let limits = wgpu::Limits { max_compute_workgroup_storage_size: bytes, ..caps.limits.clone() };
                let program = config.program(&Caps { limits, ..caps.clone() }).unwrap();
                assert_eq!(takes(&program), fits, "{tile} {lanes} {dim}: {bytes}");
            }
        }
    }
}

struct Case {
    name: &'static str,
    operator: Box<dyn Operator>,
    inputs: TensorMap,
    quick: bool,
}

/// Edges of every kind: heads and queries that fill no block, keys that fill no tile, odd D and E, all masks.
fn cases() -> Vec<Case> {
    let qkv = HALF.heads(2).dim(24).dim_v(20);
    let of = |name, operator: Box<dyn Operator>, qkv: &Qkv| Case { name, operator, inputs: inputs(qkv), quick: true };
    let slow = |case: Case| Case { quick: false, ..case };
    let soft = |name, qkv: Qkv| of(name, Box::new(softmax::Config::new(qkv)), &qkv);
    let mut list = vec![
        soft("softmax_causal", qkv.len(130)),
        soft("softmax_more_queries_than_keys", qkv.len(150).keys(40)),
        slow(soft(
            "softmax_odd_dims",
            HALF.batch(2).heads(6).kv_heads(2).len(70).dim(21).dim_v(19).layout(Layout::Bnhd),
        )),
        slow(soft("softmax_wide", HALF.heads(1).len(80).keys(150).dim(128).dim_v(96))),
    ];
    let cross = qkv.len(37).keys(300);
    let window = softmax::Config { window: Some(70), ..softmax::Config::new(qkv.len(90).keys(300)) };
    list.push(of("softmax_window", Box::new(window.clone()), &window.qkv));
    let scale = softmax::Config { scale: Some(-2.0), ..softmax::Config::new(qkv.len(70)) };
    list.push(of("softmax_negative_scale", Box::new(scale.clone()), &scale.qkv));
    let open = softmax::Config { causal: false, ..softmax::Config::new(cross) };
    list.push(of("softmax_open", Box::new(open), &cross));
    // No key, some, and more than there are.
    let many = qkv.batch(3).len(70).keys(90);
    let mut lengths =
        of("softmax_lengths", Box::new(softmax::Config { lengths: true, ..softmax::Config::new(many) }), &many);
    lengths.inputs.insert("lengths", HostTensor::new([3], Values::U32(vec![0, 75, 1000])));
    list.push(lengths);
    let spherical = yat::Config::new(qkv.len(130));
    list.push(of("yat_spherical", Box::new(spherical.clone()), &spherical.qkv));
    let euclidean = yat::Config { kernel: yat::Kernel::Euclidean, causal: false, ..yat::Config::new(cross) };
    list.push(slow(of("yat_euclidean", Box::new(euclidean), &cross)));
    // In few dimensions some keys are near a query.
    let near = HALF.heads(1).len(70).dim(3).dim_v(5);
    let near = yat::Config { norm: yat::Norm::Softmax, kernel: yat::Kernel::Euclidean, ..yat::Config::new(near) };
    list.push(slow(of("yat_softmax_odd_dims", Box::new(near.clone()), &near.qkv)));
    list
}

const EMULATED: Matrix = Matrix { tile: 8, lanes: 8, emulated: true };

/// The device with emulated matrices, and with those of its units if it has any.
fn forms(ctx: &Context) -> Vec<Caps> {
    forms_with(ctx, EMULATED)
}

/// The same with other emulated matrices.
pub(crate) fn forms_with(ctx: &Context, emulated: Matrix) -> Vec<Caps> {
    let own = ctx.caps().matrix;
    [Some(emulated), own].into_iter().flatten().map(|one| Caps { matrix: Some(one), ..ctx.caps().clone() }).collect()
}

/// The reason why the form does not run here.
pub(crate) fn lacks(ctx: &Context) -> Option<String> {
    let caps = ctx.caps();
    if !caps.f16 {
        return Some(format!("{} has no f16", ctx.info().name));
    }
    let memory = caps.limits.max_compute_workgroup_storage_size;
    (memory < 32768).then(|| format!("{} has {memory} bytes of workgroup memory", ctx.info().name))
}

fn run(case: &Case) -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    if let Some(reason) = lacks(ctx) {
        return Ok(Completion::ignored_with(reason));
    }
    for caps in forms(ctx) {
        let what = format!("{:?}", caps.matrix);
        assert_matches(&what, &*case.operator, &case.inputs, &on(ctx, &*case.operator, &caps, &case.inputs));
    }
    Ok(Completion::Completed)
}

fn on(ctx: &Context, operator: &dyn Operator, caps: &Caps, inputs: &TensorMap) -> TensorMap {
    let program = operator.program(caps).unwrap();
    assert!(takes(&program), "{program}");
    on_gpu_with(ctx, program, inputs)
}

/// Scores that rise along the keys move the reference of a row again and again, by more than f16 holds; others lie far below
/// 0, or are so small that all weights are equal.
fn references_that_move_change_no_result() {
    let Some(ctx) = context().filter(|ctx| lacks(ctx).is_none()) else { return };
    let config = softmax::Config::new(HALF.heads(2).dim(24).dim_v(20).len(130));
    for (scale, slope, offset) in [(1.0, 0.5, 0.0), (1.0, -0.5, 0.0), (1.0, 0.0, -400.0), (1e-3, 0.0, 0.0)] {
        let mut all = inputs(&config.qkv);
        // The first dimension of every query is 1: that of a key is added to its score.
        let first = |tensor: &HostTensor, of: &dyn Fn(usize) -> f32, factor: f32| {
            let mut values = tensor.to_f32();
            values.iter_mut().for_each(|x| *x *= factor);
            values.chunks_exact_mut(24).enumerate().for_each(|(row, values)| values[0] = of(row % 130));
            HostTensor::f32(tensor.shape().clone(), values).cast(DType::F16)
        };
        let q = first(all.get("q").unwrap(), &|_| 1.0, scale);
        let k = first(all.get("k").unwrap(), &|token| offset + slope * token as f32, 1.0);
        all.insert("q", q);
        all.insert("k", k);
        let config = softmax::Config { scale: Some(1.0), ..config.clone() };
        for caps in forms(ctx) {
            let what = format!("{:?}, {scale} {slope} {offset}", caps.matrix);
            assert_matches(&what, &config, &all, &on(ctx, &config, &caps, &all));
        }
    }
}

/// Queries once, keys and values once per block: counters count elements in words, and these have half a word.
fn moves_what_it_states() -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    if let Some(reason) = lacks(ctx) {
        return Ok(Completion::ignored_with(reason));
    }
    let caps = forms(ctx).pop().unwrap();
    let (wide, odd) = (HALF.heads(4).kv_heads(2).len(70).dim(24).dim_v(20), HALF.len(70).keys(99).dim(21).dim_v(19));
    for qkv in [wide, odd] {
        let config = softmax::Config { window: Some(40), ..softmax::Config::new(qkv) };
        let (stated, [read, written]) = moved_by(ctx, config.program(&caps).unwrap(), &inputs(&qkv));
        assert_eq!([stated.bytes_read, stated.bytes_written], [read / 2.0, written / 2.0], "{qkv:?}");
    }
    Ok(Completion::Completed)
}
