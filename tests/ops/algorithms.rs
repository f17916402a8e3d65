//! The chunk form of the recurrences: every case that it can run, against the definition, and what it moves. Plans choose it for
//! larger states than those of most cases; here it is asked for.

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::gpu::{Algorithm, Caps, Program};
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::{all, linear, slay, ssd};
use subquad::tensor::{DType, HostTensor};

use subquad::verify::tolerance;

use crate::bytes::assert_moves_what_is_stated;
use crate::cover::{Programs, covering, lacks, runs_everything, usual};
use crate::support::{assert_matches, context, inputs, on_gpu_with, prepare, roomy, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![
        test(plans_choose_by_the_shape_and_say_why),
        test(steps_of_a_delta_rule_follow_each_other),
        test(stored_scores_of_blocks_are_those_of_their_heads),
        test(stored_features_of_blocks_are_multiplied_in_chunks),
        test(strengths_that_a_chunk_does_not_take_are_taken_one_by_one),
        test(decays_of_any_size_are_exact),
        test(two_to_eight_tokens_from_a_state_are_one_dispatch),
    ];
    let caps = Caps { recurrence: Algorithm::Chunks, ..usual() };
    // Other kernels are those of other trials.
    let programs = Programs { caps: &caps, entries: Some(&ENTRIES) };
    let every = runs_everything();
    for op in all() {
        let chunked = |case: &Case| {
            let program = case.configure(op).and_then(|operator| operator.program(&caps));
            case.quick && !case.host && program.is_ok_and(|program| takes_chunks(&program))
        };
        let cases =
            if every { (op.cases)().into_iter().filter(chunked).collect() } else { covering(op, &programs, chunked) };
        trials.extend(cases.into_iter().map(|case| {
            Trial::ignorable_test(format!("chunks::{}::{case}", op.name), move || matches_the_definition(op, &case))
        }));
        // Kernels that count are compiled for that alone, which takes minutes on a software adapter.
        if every {
            let counted = |case: &Case| chunked(case) && case.dtype == DType::F32;
            trials.extend(covering(op, &programs, counted).into_iter().map(|case| {
                let name = format!("chunks::bytes::{}::{case}", op.name);
                Trial::ignorable_test(name, move || moves_what_it_states(op, &case))
            }));
        }
    }
    trials
}

/// More are several, and so are those of segments of their own, whose bits do not depend on where pieces end.
fn two_to_eight_tokens_from_a_state_are_one_dispatch() {
    let head = linear::Rule::Gated(linear::Gate::Head);
    let rules = [head, linear::Rule::Delta, linear::Rule::GatedDelta(linear::Gate::Head)];
    let steps = |n: usize, mode: Mode| -> Vec<usize> {
        let rule = |rule| {
            Box::new(linear::Config { mode, ..linear::Config::new(Qkv::new().heads(16).len(n).dim(64)).rule(rule) })
        };
        let ssd = Box::new(ssd::Config { mode, ..ssd::Config::new(n, 24, 64, 128) });
        let mut all: Vec<Box<dyn Operator>> = rules.iter().map(|own| rule(*own) as Box<dyn Operator>).collect();
        all.push(ssd);
        [Caps::portable(), roomy()]
            .iter()
            .flat_map(|caps| all.iter().map(|one| one.program(caps).unwrap().steps().len()))
            .collect()
    };
    for n in 1..=8 {
        assert!(steps(n, Mode::new().carry()).iter().all(|count| *count == 1), "{n} tokens");
        assert!(steps(n, Mode::new().carry().segment(4)).iter().all(|count| *count > 1), "{n} tokens, segments");
    }
    assert!(steps(9, Mode::new().carry()).iter().all(|count| *count > 1));
    // Weights that are summed, states with many rows, nothing carried, and packed sequences have forms of their own.
    let few = |config: linear::Config| {
        let program = config.program(&roomy()).unwrap();
        program.variant().ends_with(" from a state in one dispatch")
    };
    let of = |dim| linear::Config { mode: Mode::new().carry(), ..linear::Config::new(Qkv::new().len(4).dim(dim)) };
    for rule in rules {
        assert!(few(of(256).rule(rule)) && !few(of(257).rule(rule)), "{rule:?}");
        let packed = Mode { sequences: Some(2), ..Mode::new().carry() };
        assert!(!few(linear::Config { mode: packed, ..of(64) }.rule(rule)), "{rule:?}");
        assert!(!few(linear::Config { mode: Mode::new(), ..of(64) }.rule(rule)), "{rule:?}");
    }
    assert!(!few(of(64)));
}

/// Entry points of the kernels that only the chunk form has.
const ENTRIES: [&str; 3] = ["recurrence_chunk", "linear_delta_prepare", "linear_delta_scan"];

/// Whether a program multiplies chunks of tokens.
pub(crate) fn takes_chunks(program: &Program) -> bool {
    program.steps().iter().any(|step| step.kernel.entry == "recurrence_chunk")
}

fn in_chunks(operator: &dyn Operator, caps: &Caps) -> Program {
    operator.program(&Caps { recurrence: Algorithm::Chunks, ..caps.clone() }).unwrap()
}

fn matches_the_definition(op: &Op, case: &Case) -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    if let Some(reason) = lacks(case.dtype) {
        return Ok(Completion::ignored_with(reason));
    }
    let (operator, inputs) = prepare(op, case);
    let got = on_gpu_with(ctx, in_chunks(operator.as_ref(), ctx.caps()), &inputs);
    assert_matches("", operator.as_ref(), &inputs, &got);
    Ok(Completion::Completed)
}

fn moves_what_it_states(op: &Op, case: &Case) -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    let (operator, inputs) = prepare(op, case);
    assert_moves_what_is_stated(ctx, op, case, in_chunks(operator.as_ref(), ctx.caps()), &inputs);
    Ok(Completion::Completed)
}

fn plans_choose_by_the_shape_and_say_why() {
    let caps = Caps::portable();
    let gated = |qkv| linear::Config::new(qkv).rule(GATED);
    let wide = Qkv::new().heads(16).len(4096).dim(64);
    let said = |operator: &dyn Operator, caps: &Caps| {
        let program = operator.program(caps).unwrap();
        (takes_chunks(&program), program.variant().to_owned())
    };
    let (chunks, variant) = said(&gated(wide), &caps);
    assert!(chunks && variant.starts_with("products of chunks of 64 tokens, segments of 64"), "{variant}");
    for (registers, heads, segment, scores) in
        [(128, 3, 64, ""), (256, 24, 128, "scores stored for 24 workgroups each, ")]
    {
        let (chunks, variant) = said(&ssd::Config::new(4096, heads, 64, 128), &Caps { registers, ..caps.clone() });
        let expected = format!("products of chunks of 64 tokens, segments of {segment}, {scores}tiles");
        assert!(chunks && variant.starts_with(&expected), "{variant}");
    }
    for (operator, why) in [
        (linear::Config::new(wide), "the state does not decay"),
        (gated(wide.dim_v(20)), "the state is small"),
        (linear::Config { mode: Mode::new().segment(1000), ..gated(wide) }, "the segments asked for are long"),
    ] {
        let (chunks, variant) = said(&operator, &caps);
        assert!(!chunks && variant.ends_with(&format!(", token by token because {why}")), "{variant}");
    }
    // Scores of features that are products take fewer multiplications than features.
    let products = |anchors, qkv| slay::Config { anchors, ..slay::Config::new(qkv) };
    for (registers, anchors, segment) in [(128, 8, 64), (256, 4, 128), (256, 8, 128), (256, 16, 256)] {
        let (chunks, variant) = said(&products(anchors, wide), &Caps { registers, ..caps.clone() });
        let expected = format!("products of chunks of 64 tokens, segments of {segment},");
        assert!(chunks && variant.starts_with(&expected), "{variant}");
    }
    let exact = slay::Config { poly: slay::Poly::Exact, features: 1, ..slay::Config::new(wide.dim_k(16)) };
    for (operator, why) in [
        (products(2, wide), "the state is small"),
        (exact, "features of a chunk are not to be had"),
        (products(300, wide), "a workgroup does not hold all rows of a state"),
    ] {
        let (chunks, variant) = said(&operator, &caps);
        assert!(!chunks && variant.ends_with(&format!(", token by token because {why}")), "{variant}");
    }
    // Heads that fill the device take one pass, which stores no states of segments.
    let (chunks, variant) = said(&gated(wide.batch(64)), &caps);
    assert!(!chunks && variant.contains("one pass, "), "{variant}");
    let delta = |qkv| linear::Config::new(qkv).rule(GATED_DELTA);
    assert!(said(&delta(wide), &caps).0 && !said(&delta(wide.batch(64)), &caps).0);
    // The choice does not depend on the length where a segment is given: parts of a sequence give the same bits.
    for len in [64, 100, 5000] {
        assert!(said(&linear::Config { mode: Mode::new().segment(64), ..gated(wide.len(len)) }, &caps).0);
    }
    assert!(!said(&gated(wide), &Caps { recurrence: Algorithm::Walk, ..caps.clone() }).0);
    assert!(!said(&gated(wide), &Caps { software: true, ..caps }).0);
}

/// A run of a delta rule whose workspace is bounded goes step after step, from the states that the step before left.
fn steps_of_a_delta_rule_follow_each_other() {
    let Some(ctx) = context() else { return };
    // The packed ones with a carried state, and from nothing: sequences begin in every step.
    for name in ["delta_head_long", "packed_segments_delta_head", "packed_bnhd_delta_head"] {
        let op = all().find(|op| op.name == "linear").unwrap();
        let case = (op.cases)().into_iter().find(|case| case.name == name).unwrap();
        let (operator, inputs) = prepare(op, &case);
        let program = in_chunks(operator.as_ref(), &Caps { feature_bytes: 1 << 16, ..ctx.caps().clone() });
        let walks = program.steps().iter().filter(|step| step.kernel.name == "linear_delta_scan").count();
        assert!(walks > 2 && program.workspace_bytes() < 1 << 19, "{program}");
        let got = on_gpu_with(ctx, program, &inputs);
        assert_matches(name, operator.as_ref(), &inputs, &got);
    }
}

/// Features that a dispatch of their own stores are those of a block of segments.
fn stored_features_of_blocks_are_multiplied_in_chunks() {
    let Some(ctx) = context() else { return };
    let op = all().find(|op| op.name == "slay").unwrap();
    for name in ["length_257", "carried", "segments_bnhd"] {
        let case = (op.cases)().into_iter().find(|case| case.name == name).unwrap();
        let (operator, inputs) = prepare(op, &case);
        let program = in_chunks(operator.as_ref(), &Caps { feature_bytes: 1 << 14, ..ctx.caps().clone() });
        let chunks = program.steps().iter().filter(|step| step.kernel.name == "slay_chunk").count();
        assert!(chunks > 1, "{program}");
        let got = on_gpu_with(ctx, program, &inputs);
        assert_matches(name, operator.as_ref(), &inputs, &got);
    }
}

/// Scores that heads share are those of a block of segments.
fn stored_scores_of_blocks_are_those_of_their_heads() {
    let Some(ctx) = context() else { return };
    // Blocks of segments, one of which has three chunks; of segments of one chunk; and of heads.
    let sizes = [
        ("ssd", "length_257", "192", 1 << 17),
        ("ssd", "length_257", "64", 1 << 15),
        ("slay", "value_heads", "64", 1 << 15),
    ];
    for (op, name, segment, feature_bytes) in sizes {
        let op = all().find(|one| one.name == op).unwrap();
        let case = (op.cases)().into_iter().find(|case| case.name == name).unwrap().flag("segment", segment);
        let (operator, inputs) = prepare(op, &case);
        let program = in_chunks(operator.as_ref(), &Caps { feature_bytes, ..ctx.caps().clone() });
        let scores = program.steps().iter().filter(|step| step.kernel.entry == "recurrence_scores").count();
        assert!(scores > 1, "{program}");
        let got = on_gpu_with(ctx, program, &inputs);
        assert_matches(name, operator.as_ref(), &inputs, &got);
    }
}

/// Gated attention of one head with these log decays and strengths, as the definition and in chunks.
fn one_head(n: usize, rule: linear::Rule, g: impl Fn(usize) -> f32, beta: impl Fn(usize) -> f32) {
    let Some(ctx) = context() else { return };
    let config =
        linear::Config { mode: Mode::new().carry(), ..linear::Config::new(Qkv::new().len(n).dim(16)) }.rule(rule);
    let mut inputs = inputs(&config.qkv);
    let unit = |row: &[f32]| {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(|x| x / length).collect::<Vec<_>>()
    };
    let keys = inputs.get("k").unwrap().to_f32().chunks(16).flat_map(unit).collect();
    inputs.insert("k", HostTensor::f32([1, 1, n, 16], keys));
    inputs.insert("g", HostTensor::f32([1, 1, n], (0..n).map(g).collect()));
    if rule.is_delta() {
        inputs.insert("beta", HostTensor::f32([1, 1, n], (0..n).map(beta).collect()));
    }
    inputs.insert("state", HostTensor::f32([1, 1, 16, 16], random::normal(3, 9, 256)));
    let exact = config.reference(&inputs, Precision::F64, Rows::All);
    let error = |algorithm| {
        let program = config.program(&Caps { recurrence: algorithm, ..ctx.caps().clone() }).unwrap();
        let got = on_gpu_with(ctx, program, &inputs);
        exact
            .iter()
            .map(|(name, exact)| tolerance::relative_rms(&got.get(name).unwrap().to_f64(), exact))
            .fold(0.0, f64::max)
    };
    let [chunks, walk] = [Algorithm::Chunks, Algorithm::Walk].map(error);
    eprintln!("{rule:?}: off by {chunks:.1e} in chunks, by {walk:.1e} token by token");
    assert!(
        chunks < f64::max(1e-6, 2.0 * walk),
        "{rule:?}: off by {chunks:.1e} in chunks, by {walk:.1e} token by token"
    );
}

const GATED: linear::Rule = linear::Rule::Gated(linear::Gate::Head);
const GATED_DELTA: linear::Rule = linear::Rule::GatedDelta(linear::Gate::Head);

fn strengths_that_a_chunk_does_not_take_are_taken_one_by_one() {
    // Strengths near 2, now and then, and in all tokens of a chunk.
    one_head(200, GATED_DELTA, |t| -0.01 * (t % 7) as f32, |t| if t % 64 == 5 || t >= 128 { 1.99 } else { 0.7 });
    one_head(200, GATED_DELTA, |_| 0.0, |t| if t < 64 { -0.1 } else { 1.0 });
}

fn decays_of_any_size_are_exact() {
    for rule in [GATED, GATED_DELTA] {
        // Large decays before small ones: sums of them are large, their differences small.
        one_head(200, rule, |t| if t % 64 < 30 { -9.7 } else { -0.003 * (t % 5) as f32 }, |_| 0.5);
        one_head(200, rule, |t| if t % 50 == 3 { f32::MIN } else { -0.01 }, |_| 0.5);
        one_head(200, rule, |t| if t % 3 == 0 { 0.01 } else { -1e-7 }, |_| 0.5);
        // The same small decay thousands of times, of a state that little is written to.
        one_head(6000, rule, |_| -1e-4, |_| 1e-4);
    }
}
