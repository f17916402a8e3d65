//! Tensors larger than a binding or a buffer of the device, met by asking the device for less.

use libtest_mimic::Trial;
use subquad::catalog::case::Case;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::gpu::{Caps, Context, Plan};
use subquad::operator::Operator;
use subquad::operator::qkv::Qkv;
use subquad::ops::linformer::{Config, Projection, Sharing};
use subquad::ops::{OPS, find};
use subquad::tensor::{DType, Layout};
use subquad::verify::run;

use crate::support::{assert_matches, cases, context, inputs, on_gpu, prepare, request, test};

/// A device on the adapter of this run with bindings and buffers of at most so many bytes.
fn limited(binding: u64, buffer: u64) -> Option<Context> {
    context()?; // says so, or fails, where there is no adapter
    let request = request();
    let found = subquad::gpu::candidates(&request);
    let best = found.iter().filter(|c| c.refused.is_none()).find(|c| c.info == *context().unwrap().info())?;
    let less = |limits: &mut wgpu::Limits| {
        limits.max_storage_buffer_binding_size = binding;
        limits.max_buffer_size = buffer;
    };
    Some(pollster::block_on(best.open_with(true, less)).unwrap())
}

/// A case whose workspace, which is not cut, is small: slay with four features.
fn few_features(op: &Op, case: Case) -> Case {
    let flags = [("nodes", "1"), ("anchors", "2"), ("features", "2")];
    flags.iter().filter(|_| op.name == "slay").fold(case, |case, (name, value)| case.flag(name, value))
}

/// q of this case is 80640 bytes, what one key head's queries make up 20160; a batch entry of q is 40320.
fn tensors_over_one_binding_are_cut_where_the_layout_allows() {
    let (Some(ctx), Some(small), Some(tiny)) = (context(), limited(48 << 10, 1 << 20), limited(24 << 10, 1 << 20))
    else {
        return;
    };
    for op in OPS.iter().filter(|op| op.inputs[0].name == "q") {
        let grouped = few_features(op, cases(op).into_iter().find(|case| case.name == "grouped").unwrap());
        for (device, layout, dtype) in [
            (&tiny, Layout::Bhnd, DType::F32),
            (&tiny, Layout::Bhnd, DType::F16),
            (&small, Layout::Bhnd, DType::F32),
            (&small, Layout::Bnhd, DType::F32),
        ] {
            if dtype == DType::F16 && !device.caps().f16 {
                eprintln!("SKIPPED: {} in f16 on {}", op.name, device.info().name);
                continue;
            }
            let case = grouped.clone().layout(layout).dtype(dtype);
            let (operator, inputs) = prepare(op, &case);
            let run = on_gpu(device, operator.as_ref(), &inputs);
            assert_matches(&format!("{} {layout} {dtype}", op.name), operator.as_ref(), &inputs, &run.outputs);
            let steps = |ctx: &Context| operator.program(ctx.caps()).unwrap().steps().len();
            assert!(steps(device) > steps(ctx), "{} {layout} {dtype}: nothing was cut", op.name);
        }
        // A batch entry of bnhd has its heads interleaved: nothing smaller is in one piece.
        let case = grouped.layout(Layout::Bnhd);
        let (operator, _) = prepare(op, &case);
        let error = operator.program(tiny.caps()).unwrap_err().to_string();
        let (what, numbers) = ("(bytes of one batch entry) needs ", ", the limit of this device is 24576");
        assert!(error.starts_with(op.name) && error.contains(what) && error.ends_with(numbers), "{error}");
    }
}

/// v of these cases is 76800 bytes, what the three value heads of one key head have 38400.
fn value_heads_that_share_a_key_head_stay_together() {
    let (Some(ctx), Some(small)) = (context(), limited(48 << 10, 1 << 20)) else { return };
    let axes = [("H", 2), ("V", 6), ("N", 200), ("D", 16), ("E", 16)];
    for (op, flags, with) in
        [("linear", &[][..], &[][..]), ("linear", &[("rule", "gated-delta")], &["g", "beta"]), ("slay", &[], &[])]
    {
        let op = subquad::ops::find(op).unwrap();
        let case = flags.iter().fold(Case::new("shared", &axes), |case, (name, value)| case.flag(name, value));
        let case = with.iter().fold(case, |case, name| case.with(name));
        let (operator, inputs) = prepare(op, &few_features(op, case));
        let run = on_gpu(&small, operator.as_ref(), &inputs);
        assert_matches(&format!("{} {flags:?}", op.name), operator.as_ref(), &inputs, &run.outputs);
        let steps = |ctx: &Context| operator.program(ctx.caps()).unwrap().steps().len();
        assert!(steps(&small) > steps(ctx), "{} {flags:?}: nothing was cut", op.name);
    }
}

/// q, k, v and o of these cases are over the limit; gates, what is made of them and strengths of all heads are not.
fn runs_against_the_tokens_and_prepared_gates_are_cut_too() {
    let (Some(ctx), Some(small)) = (context(), limited(48 << 10, 1 << 20)) else { return };
    let axes = [("B", 3), ("H", 2), ("N", 200), ("D", 16), ("E", 16)];
    let backward = [("direction", "backward")];
    let gates = [("rule", "gated-delta"), ("l2norm", "true"), ("beta-sigmoid", "true"), ("direction", "both")];
    for (flags, with) in [
        (&backward[..], &[][..]),
        (&[("rule", "gated-delta"), ("l2norm", "true")], &["g.G", "beta.N"]),
        (&gates, &["a", "a_log", "dt_bias", "beta"]),
    ] {
        let op = find("linear").unwrap();
        for layout in [Layout::Bhnd, Layout::Bnhd] {
            let case = flags.iter().fold(Case::new("cut", &axes).layout(layout), |case, (n, v)| case.flag(n, v));
            let case = with.iter().fold(case, |case, name| case.with(name));
            let (operator, inputs) = prepare(op, &case);
            let run = on_gpu(&small, operator.as_ref(), &inputs);
            assert_matches(&format!("{flags:?} {layout}"), operator.as_ref(), &inputs, &run.outputs);
            let steps = |ctx: &Context| operator.program(ctx.caps()).unwrap().steps().len();
            assert!(steps(&small) > steps(ctx), "{flags:?} {layout}: nothing was cut");
        }
    }
}

/// A bias of these heads is 117600 bytes, what the two query heads of one key head have 39200.
fn biases_and_masks_are_cut_with_their_heads() {
    let (Some(ctx), Some(small)) = (context(), limited(48 << 10, 1 << 20)) else { return };
    let op = find("softmax").unwrap();
    let axes = [("B", 1), ("H", 6), ("G", 3), ("N", 70), ("D", 16), ("1|H", 6)];
    let case = Case::new("cut", &axes).with("bias").with("mask").with("sink").flag("lse", "true");
    for layout in [Layout::Bhnd, Layout::Bnhd] {
        let (operator, inputs) = prepare(op, &case.clone().layout(layout));
        // Of bnhd a whole batch entry is the least.
        if layout == Layout::Bnhd {
            let error = operator.program(small.caps()).unwrap_err().to_string();
            let sentence = "softmax: tensor `bias` (bytes of one batch entry) needs 117";
            assert!(error.starts_with(sentence), "{error}");
            continue;
        }
        let run = on_gpu(&small, operator.as_ref(), &inputs);
        assert_matches("bias and mask", operator.as_ref(), &inputs, &run.outputs);
        let steps = |ctx: &Context| operator.program(ctx.caps()).unwrap().steps().len();
        assert!(steps(&small) > steps(ctx), "nothing was cut");
    }
    // One for all heads is not cut.
    let shared = Case::new("shared", &[("H", 2), ("N", 70), ("M", 200), ("D", 16)]).with("bias");
    let (operator, _) = prepare(op, &shared);
    let error = Plan::new(&small, operator.program(small.caps()).unwrap()).unwrap_err().to_string();
    let sentence = "softmax: tensor `bias` (bytes in one binding) needs 56000, the limit of this device is 49152";
    assert_eq!(error, sentence);
}

fn a_tensor_over_the_largest_buffer_is_refused_with_both_numbers() {
    let Some(device) = limited(48 << 10, 64 << 10) else { return };
    for op in OPS.iter().filter(|op| op.inputs[0].name == "q") {
        let case = cases(op).into_iter().find(|case| case.name == "grouped").unwrap();
        let (operator, inputs) = prepare(op, &case);
        let sentence = format!("{}: tensor `q` (bytes) needs 80640, the limit of this device is 65536", op.name);
        let error = Plan::new(&device, operator.program(device.caps()).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), sentence);
        let error = run::gpu(&device, operator.as_ref(), &inputs, true, &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), sentence);
    }
}

/// Four channels of the first are 2240 bytes, one of the last 6000 on its own.
fn channels_over_one_binding_are_cut_at_blocks_of_them() {
    let (Some(ctx), Some(small)) = (context(), limited(8 << 10, 1 << 20)) else { return };
    let op = find("conv1d").unwrap();
    for (name, at_least) in [("grouped", 9), ("grouped_f16", 4), ("carried", 2 * 18)] {
        let case = cases(op).into_iter().find(|case| case.name == name).unwrap();
        if case.dtype == DType::F16 && !small.caps().f16 {
            eprintln!("SKIPPED: {case} on {}", small.info().name);
            continue;
        }
        let (operator, inputs) = prepare(op, &case);
        let steps = |ctx: &Context| operator.program(ctx.caps()).unwrap().steps().len();
        assert!(steps(ctx) <= 2 && steps(&small) >= at_least, "{name}: {} steps", steps(&small));
        let run = on_gpu(&small, operator.as_ref(), &inputs);
        assert_matches(name, operator.as_ref(), &inputs, &run.outputs);
    }
    let case = cases(op).into_iter().find(|case| case.name == "carried").unwrap().flag("activation", "none");
    let error = case.configure(op).unwrap().program(limited(4 << 10, 1 << 20).unwrap().caps()).unwrap_err();
    let (sentence, error) = ("conv1d: tensor `x` (bytes of one channel) needs 6", error.to_string());
    assert!(error.starts_with(sentence) && error.ends_with(", the limit of this device is 4096"), "{error}");
}

/// A group's 70 channels of x are 39200 bytes; 64 of the 150 channels that are one group 35840.
fn a_scan_over_one_binding_is_cut_at_groups_or_at_channels() {
    let (Some(ctx), Some(small)) = (context(), limited(48 << 10, 1 << 20)) else { return };
    let op = find("mamba").unwrap();
    let grouped = cases(op).into_iter().find(|case| case.name == "grouped").unwrap();
    let one = Case { axes: vec![("C", 150), ("N", 140), ("S", 6)], ..grouped.clone() };
    for (case, at_least) in [
        (grouped.clone(), 4),
        (grouped.clone().carry().flag("segment", "48"), 9),
        (one.clone(), 3),
        (one.clone().carry().flag("segment", "48"), 7),
    ] {
        let (operator, inputs) = prepare(op, &case);
        let steps = |ctx: &Context| operator.program(ctx.caps()).unwrap().steps().len();
        assert!(steps(ctx) <= 3 && steps(&small) >= at_least, "{case}: {} steps", steps(&small));
        let run = on_gpu(&small, operator.as_ref(), &inputs);
        assert_matches(&case.name, operator.as_ref(), &inputs, &run.outputs);
    }
    let tiny = limited(16 << 10, 1 << 20).unwrap();
    for (case, what) in [(grouped, "one group"), (one, "64 channels")] {
        let (sentence, error) = (format!("mamba: tensor `x` (bytes of {what}) needs 3"), prepare(op, &case).0);
        let error = error.program(tiny.caps()).unwrap_err().to_string();
        assert!(error.starts_with(&sentence) && error.ends_with(", the limit of this device is 16384"), "{error}");
    }
}

/// The projection is the largest tensor of all: shared, it is cut at rows of its rank, else at heads first.
fn a_projection_over_one_binding_is_cut_at_rows_and_heads() {
    let Some(device) = limited(64 << 10, 1 << 20) else { return };
    let op = find("linformer").unwrap();
    let own = |f| Projection::Matrices { e: Sharing::PerHead, f };
    let base = Config::new(Qkv::new().heads(2).len(20).dim(8).dim_v(12).keys(200), 150);
    let batch = Config::new(Qkv::new().batch(2).heads(2).len(20).dim(8).dim_v(12).keys(200), 50);
    for (what, config, steps) in [
        ("120000 bytes shared", base.clone(), 7),
        ("76800 bytes shared in 64 rows", Config::new(base.qkv.keys(300), 64), 5),
        ("120000 bytes a head", Config { projection: own(None), ..base.clone() }, 13),
        ("80000 bytes, heads of each batch entry", Config { projection: own(Some(Sharing::AllHeads)), ..batch }, 6),
    ] {
        let mut all = inputs(&config.qkv);
        let drawn = random::parameters(op, &Flags::new(), &config, &all, 1).unwrap();
        drawn.into_iter().for_each(|(name, tensor)| all.insert(name, tensor));
        let program = config.program(device.caps()).unwrap();
        let labels: Vec<_> = program.steps().iter().map(|s| s.kernel.name).collect();
        let run = on_gpu(&device, &config, &all);
        assert_matches(what, &config, &all, &run.outputs);
        assert_eq!(labels.len(), steps, "{what}: {labels:?}");
    }
    // A single row is the least: in f16 a head of one dimension is smaller than it.
    let caps = Caps { f16: true, ..device.caps().clone() };
    let long = base.qkv.keys(20_000).dim_k(1).dim_v(1).dtype(DType::F16);
    let error = Config::new(long, 3).program(&caps).unwrap_err().to_string();
    let sentence = "linformer: projection (bytes of one row) needs 80000, the limit of this device is 65536";
    assert_eq!(error, sentence);
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(tensors_over_one_binding_are_cut_where_the_layout_allows),
        test(value_heads_that_share_a_key_head_stay_together),
        test(runs_against_the_tokens_and_prepared_gates_are_cut_too),
        test(biases_and_masks_are_cut_with_their_heads),
        test(a_tensor_over_the_largest_buffer_is_refused_with_both_numbers),
        test(channels_over_one_binding_are_cut_at_blocks_of_them),
        test(a_scan_over_one_binding_is_cut_at_groups_or_at_channels),
        test(a_projection_over_one_binding_is_cut_at_rows_and_heads),
    ]
}
