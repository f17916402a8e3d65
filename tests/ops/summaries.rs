//! Summaries of pieces that ran side by side fold into the state after the pieces one behind the other:
//! `summaries::OP::CASE`.
//!
//! Every quick case that carries a state is one, unless the operator has no summaries with its settings.

use std::ops::Range;

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::catalog::summaries::{DECAY, Settings, State, Summary};
use subquad::operator::{Operator, Rows};
use subquad::ops::{OPS, find};
use subquad::tensor::{DType, HostTensor, TensorMap, Values};
use subquad::verify::tolerance::Reference;

use crate::cover::{backends_of, lacks};
use crate::support::{Runner, backends_for, cases, cut, length_axis, prepare, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![
        test(rules_and_maps_with_summaries_have_cases),
        test(extreme_decays_give_no_nan),
        test(delta_rules_have_no_summary),
        test(angles_and_a_decay_per_channel_have_no_summary),
        test(one_decay_differs_from_channel_to_channel),
        test(packed_sequences_decay_each_on_its_own),
    ];
    for op in OPS.iter().filter(|op| op.summaries.is_some()) {
        let mut own: Vec<Case> = cases(op).into_iter().filter(|case| has_summary(op, case)).collect();
        let halves =
            own.clone().into_iter().map(|case| Case { name: format!("{}_f16", case.name), ..case.dtype(DType::F16) });
        own.extend(halves.collect::<Vec<_>>());
        let of = |case: Case| Trial::ignorable_test(format!("summaries::{}::{case}", op.name), move || one(op, &case));
        trials.extend(own.into_iter().map(of));
    }
    trials
}

fn packed_sequences_decay_each_on_its_own() {
    let op = subquad::ops::find("linear").unwrap();
    let axes = [("H", 2), ("N", 9), ("D", 4), ("E", 3), ("seqs", 3)];
    for with in ["g", "g.D"] {
        let case = Case::new("packed", &axes).carry().flag("rule", "gated").with(with).with("cu_seqlens");
        let (operator, mut inputs) = prepare(op, &case);
        inputs.insert("cu_seqlens", HostTensor::new([4], Values::U32(vec![0, 4, 4, 9])));
        let decay = operator.log_decay(&inputs).unwrap();
        let each = decay.shape().count() / 6;
        let g = inputs.get("g").unwrap().to_f64();
        for (at, tokens) in [0..4, 4..4, 4..9].into_iter().enumerate() {
            for unit in 0..2 * each {
                let (head, channel) = (unit / each, unit % each);
                let sum: f64 = tokens.clone().map(|token| g[(head * 9 + token) * each + channel]).sum();
                let found = decay.to_f64()[at * 2 * each + unit];
                assert!((found - sum).abs() <= 1e-6 * sum.abs(), "{with} {at} {unit}: {found} {sum}");
            }
        }
    }
}

/// Whether a case is run in pieces: a quick one that carries a state over enough tokens, and has a summary.
fn has_summary(op: &Op, case: &Case) -> bool {
    let long = case.axis(op, "N").is_some_and(|n| n >= 6);
    // Packed sequences are cut at their borders already: see `packed_sequences_decay_each_on_its_own`.
    let packed = case.with.contains(&"cu_seqlens");
    case.quick
        && case.carry
        && long
        && !packed
        && case.configure(op).is_ok_and(|operator| operator.check_summary().is_ok())
}

/// Some tokens of a case: its configuration and its inputs, without the state that enters the whole.
fn piece(op: &Op, case: &Case, inputs: &TensorMap, tokens: Range<usize>) -> (Box<dyn Operator>, TensorMap) {
    let mut piece = case.clone();
    piece.axes.retain(|(letter, _)| !["N", "M"].contains(letter));
    piece.axes.push(("N", tokens.len()));
    let own = inputs.iter().filter(|(name, _)| op.inputs.iter().any(|spec| spec.name == *name));
    let part = |(name, tensor): (&str, &HostTensor)| {
        let axis = length_axis(op.inputs, case, name);
        (name.to_owned(), axis.map_or_else(|| tensor.clone(), |axis| cut(tensor, axis, tokens.start, tokens.end)))
    };
    (piece.configure(op).unwrap(), own.map(part).collect())
}

/// The settings of an operator as a file says them.
fn settings(operator: &dyn Operator) -> Vec<(String, String)> {
    operator.state_basis().settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The state after the pieces between these cuts, from the state of the inputs if there is one.
fn folded(op: &Op, case: &Case, inputs: &TensorMap, cuts: &[usize], run: &Runner) -> TensorMap {
    let made = settings(case.configure(op).unwrap().as_ref());
    let fold = op.summaries.unwrap()(&Settings(&made)).unwrap();
    let first = fold.tensors()[0].name;
    let mut state = inputs.get(first).map(|_| State::read(fold.tensors(), inputs, None).unwrap());
    for ends in cuts.windows(2) {
        let (operator, tensors) = piece(op, case, inputs, ends[0]..ends[1]);
        let mut summary = run(operator.as_ref(), &tensors);
        summary.insert(DECAY.name, operator.log_decay(&tensors).unwrap());
        let like = state.as_ref().map(|state| (state, "before"));
        let mut summary = Summary::read(fold.tensors(), &summary, like).unwrap();
        match &mut state {
            None => state = Some(summary.own),
            Some(state) => fold.fold(state, &mut summary).unwrap(),
        }
    }
    state.unwrap().to_tensors()
}

/// Every tensor of the state within the tolerance of the definition over the whole.
fn assert_state(what: &str, operator: &dyn Operator, inputs: &TensorMap, got: &TensorMap) {
    let verdicts = Reference::of(operator, inputs, Rows::All).compare(operator, inputs, Rows::All, got);
    let of_state: Vec<_> = verdicts.into_iter().skip(1).collect();
    assert_eq!(of_state.len(), got.len(), "{what}: the state is {}", got.names());
    for (name, verdict) in of_state {
        assert!(verdict.ok, "{what}: `{name}`: {verdict:?}");
    }
}

fn one(op: &Op, case: &Case) -> Result<Completion, Failed> {
    let n = case.axis(op, "N").unwrap();
    let cuts = [0, n / 5, n - 2, n];
    let (whole, inputs) = prepare(op, case);
    let tokens: TensorMap = piece(op, case, &inputs, 0..n).1;
    for (backend, run) in backends_of(op, case) {
        for inputs in [&inputs, &tokens] {
            let got = folded(op, case, inputs, &cuts, &run);
            let what = format!("{backend}, cut at {cuts:?}, from {}", inputs.names());
            assert_state(&what, whole.as_ref(), inputs, &got);
        }
    }
    Ok(match lacks(case.dtype) {
        Some(reason) => Completion::ignored_with(format!("in part: {reason}")),
        None => Completion::Completed,
    })
}

fn rules_and_maps_with_summaries_have_cases() {
    let linear = find("linear").unwrap();
    let of = |key: &str, value: &str| {
        cases(linear).iter().any(|case| has_summary(linear, case) && case.flags.word(key) == Some(value))
    };
    for map in ["performer", "performer-relu", "cosformer", "identity"] {
        assert!(of("feature-map", map), "{map}");
    }
    assert!(of("rule", "gated"));
    for op in OPS.iter().filter(|op| op.summaries.is_some()) {
        assert!(cases(op).iter().any(|case| has_summary(op, case)), "{}", op.name);
    }
}

/// A case of rule gated, and its inputs with other log decays.
fn gated(map: &str, g: impl Fn(usize) -> f32) -> (&'static Op, Case, TensorMap) {
    let op = find("linear").unwrap();
    let mut case = Case::new("extreme", &[("H", 2), ("N", 30), ("D", 4), ("E", 3), ("F", 6)]);
    case = case.carry().with("g").flag("rule", "gated").flag("feature-map", map).flag("normalize", "true");
    if map == "cosformer" {
        case = case.flag("max-len", "40000");
    }
    if map == "performer" {
        case = case.flag("features", "6");
    }
    let mut inputs = random::inputs(op, &case).unwrap();
    inputs.insert("g", HostTensor::f32([1, 2, 30], (0..60).map(g).collect()));
    (op, case, inputs)
}

fn extreme_decays_give_no_nan() {
    for map in ["relu", "performer", "cosformer"] {
        for extreme in [-1e30, f32::NEG_INFINITY, f32::MIN] {
            let (op, case, inputs) = gated(map, |at| if at % 7 == 3 { extreme } else { -0.1 });
            let operator = case.configure(op).unwrap();
            for (backend, run) in backends_for(DType::F32).take(1) {
                let got = folded(op, &case, &inputs, &[0, 3, 4, 17, 30], &run);
                assert_state(&format!("{backend} {map} {extreme}"), operator.as_ref(), &inputs, &got);
                assert!(got.iter().all(|(_, tensor)| tensor.non_finite() == 0), "{map} {extreme}");
            }
        }
    }
}

fn delta_rules_have_no_summary() {
    let op = find("linear").unwrap();
    for rule in ["delta", "gated-delta"] {
        let mut case = Case::new("delta", &[("H", 1), ("N", 6), ("D", 4)]).carry().flag("rule", rule);
        case.complete(op);
        let error = case.configure(op).unwrap().check_summary().unwrap_err().to_string();
        let start = "linear: `rule`: expected linear or gated for a summary, because a delta rule changes the state";
        assert!(error.starts_with(start) && error.ends_with(&format!("found {rule}")), "{error}");
    }
}

fn angles_and_a_decay_per_channel_have_no_summary() {
    let op = find("linear").unwrap();
    let case = Case::new("both", &[("H", 1), ("N", 6), ("D", 4)]).carry().flag("rule", "gated").flag("max-len", "9");
    let case = case.flag("feature-map", "cosformer").with("g.D");
    // Twice as many features as dimensions, which the axis D of the row does not say.
    let request = subquad::catalog::request::Request {
        flags: &case.flags,
        shapes: &[("q", 4), ("k", 4), ("v", 4), ("g", 8)].map(|(name, d)| (name.to_owned(), [1, 1, 6, d].into())),
        layout: case.layout,
        dtype: case.dtype,
        carry: true,
    };
    let error = op.configure(&request).unwrap().check_summary().unwrap_err().to_string();
    assert!(error.contains("tensor `g`: expected one log decay a head for a summary"), "{error}");
}

/// The decay of a summary is the sum of g, per channel where g is.
fn one_decay_differs_from_channel_to_channel() {
    let op = find("linear").unwrap();
    let case = Case::new("channel", &[("B", 2), ("H", 2), ("N", 9), ("D", 3), ("E", 2)]).carry().flag("rule", "gated");
    for layout in [subquad::tensor::Layout::Bhnd, subquad::tensor::Layout::Bnhd] {
        let case = case.clone().layout(layout).with("g.D");
        let (operator, inputs) = prepare(op, &case);
        let decay = operator.log_decay(&inputs).unwrap();
        assert_eq!(decay.shape(), &[2, 2, 3, 1].into());
        let g = inputs.get("g").unwrap().to_f32();
        let strides = layout.strides(2, 9, 3);
        let want = (0..12).map(|at| {
            let (b, h, d) = (at / 6, at / 3 % 2, at % 3);
            (0..9).map(|n| f64::from(g[b * strides.batch + h * strides.head + n * strides.token + d])).sum::<f64>()
        });
        assert_eq!(decay.values(), &Values::F32(want.map(|sum| sum as f32).collect()));
    }
}
