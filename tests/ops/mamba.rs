//! The selective scan: what is particular to it.

use libtest_mimic::Trial;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use subquad::catalog::case::Case;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::request::Request;
use subquad::catalog::spec::Op;
use subquad::gpu::{Caps, Workspace, pack, readback};
use subquad::operator;
use subquad::operator::Bound;
use subquad::operator::channels::Channels;
use subquad::operator::mode::Mode;
use subquad::operator::steps::Steps;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::conv1d;
use subquad::ops::mamba::{self, Config, OP};
use subquad::tensor::{DType, HostTensor, Layout, Shape, TensorMap};
use subquad::verify::tolerance::{self, Reference};

use crate::pieces::assert_same_bits_in_pieces;
use crate::support::{Runner, assert_matches, assert_same_bits, backends, context, last, on_gpu_with, test};

fn op() -> &'static Op {
    &OP
}

/// With d, z and dt_bias.
fn full(shape: Channels, states: usize) -> Config {
    Config { d: true, z: true, dt_bias: true, ..Config::new(shape, states) }
}

/// What a configuration reads, drawn as `sample` does, the state too where it is carried.
fn inputs(c: &Config) -> TensorMap {
    seeded(c, 11)
}

fn seeded(c: &Config, seed: u64) -> TensorMap {
    let s = c.shape;
    let axes = [("B", s.batch), ("C", s.channels), ("N", s.length), ("G", c.group_count()), ("S", c.states)];
    let mut case = Case::new("inputs", &axes).dtype(s.dtype);
    case.seed = seed;
    case.carry = c.mode.carry;
    let given = [("d", c.d), ("z", c.z), ("dt_bias", c.dt_bias), ("a_log", c.a_log)];
    case.with = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
    let mut all = random::inputs(op(), &case).unwrap();
    if c.groups.is_none() {
        for name in ["b", "c"] {
            let tensor = all.remove(name).unwrap();
            all.insert(name, tensor.reshape([s.batch, c.states, s.length]));
        }
    }
    all
}

/// The cpu backend walks every channel from end to end.
fn pieces_equal_the_whole_bit_for_bit_on_the_cpu_at_any_cut() {
    let case = |axes: [(&'static str, usize); 3]| Case::new("any cut", &axes).carry();
    let run: Runner = Box::new(|c: &dyn Operator, t: &TensorMap| c.cpu(t).unwrap());
    for case in [
        case([("C", 20), ("N", 130), ("S", 16)]).with("d").with("z").with("dt_bias"),
        case([("C", 9), ("N", 130), ("S", 3)]).with("a_log"),
        case([("C", 5), ("N", 130), ("S", 40)]),
    ] {
        assert_same_bits_in_pieces(op(), &case, &[0, 1, 2, 50, 67, 130], "cpu", &run);
    }
}

/// Steps so long that nothing is left of earlier tokens: each output is its own token's alone, exactly.
fn a_state_that_decays_to_nothing_within_a_step_is_that_of_the_step() {
    let c = Config { mode: Mode::new().carry(), ..Config::new(Channels::new(1, 2, 70), 4) };
    let mut all = inputs(&c);
    let values = |f: fn(usize) -> f32, n: usize| (0..n).map(f).collect::<Vec<_>>();
    all.insert("dt", HostTensor::f32([1, 2, 70], values(|i| 1000.0 + (i % 3) as f32, 140)));
    all.insert("a", HostTensor::f32([2, 4], vec![-1.0; 8]));
    let [x, dt, b, cs] = ["x", "dt", "b", "c"].map(|name| all.get(name).unwrap().to_f64());
    for c in [c.clone(), Config { mode: c.mode.segment(16), ..c }] {
        let want: Vec<f64> = (0..140)
            .map(|at| (0..4).map(|s| cs[s * 70 + at % 70] * dt[at] * b[s * 70 + at % 70] * x[at]).sum())
            .collect();
        let exact = c.reference(&all, Precision::F64, Rows::All);
        assert!(exact[0].1.iter().zip(&want).all(|(x, y)| (x - y).abs() <= 1e-12 * y.abs()));
        for (backend, run) in backends() {
            let got = run(&c, &all);
            assert_matches(backend, &c, &all, &got);
            // What came before a token makes no difference at all.
            let mut other = all.clone();
            let mut changed = x.clone();
            (0..2).for_each(|row| changed[row * 70..row * 70 + 50].iter_mut().for_each(|x| *x = 9.0 - *x));
            let changed = changed.into_iter().map(|x| x as f32).collect();
            other.insert("x", HostTensor::f32([1, 2, 70], changed));
            let cut = |map: &TensorMap| last(map.get("y").unwrap(), 50..70);
            assert_same_bits(backend, &cut(&got), &cut(&run(&c, &other)));
        }
    }
}

/// Rates at the end of f32 leave nothing of a state after any step, and all of it after a step of 0.
fn rates_at_the_end_of_f32_are_right() {
    for (name, rate) in [("a", -3e38), ("a", -2.4e38), ("a_log", 89.0), ("a_log", 1e30)] {
        let base =
            Config { a_log: name == "a_log", mode: Mode::new().carry(), ..Config::new(Channels::new(1, 2, 70), 4) };
        let c = Config { steps: Steps::plain(), ..base };
        let mut all = inputs(&c);
        all.insert(name, HostTensor::f32([2, 4], vec![rate; 8]));
        let steps = (0..140).map(|i| if i % 7 == 3 { 0.5 } else { 0.0 }).collect();
        all.insert("dt", HostTensor::f32([1, 2, 70], steps));
        for (backend, run) in backends() {
            let got = run(&c, &all);
            assert!(got.iter().all(|(_, t)| t.to_f32().iter().all(|x| x.is_finite())), "{backend}, {name} {rate}");
            assert_matches(&format!("{backend}, {name} {rate}"), &c, &all, &got);
        }
    }
}

/// Softplus from where it is 0 in f32 to where it is the step itself, and steps as they are.
fn steps_far_from_zero_are_right_on_both_sides() {
    let length = 150;
    let c = Config { mode: Mode::new().carry(), ..Config::new(Channels::new(1, 1, length), 2) };
    let mut all = inputs(&c);
    let steps = |f: fn(f32) -> f32| (0..length).map(|i| f(i as f32 / (length - 1) as f32)).collect::<Vec<_>>();
    all.insert("a", HostTensor::f32([1, 2], vec![-1.0, -0.01]));
    all.insert("state", HostTensor::f32([1, 1, 2], vec![1.0, -2.0]));
    for name in ["b", "c", "x"] {
        let tensor = all.get(name).unwrap();
        all.insert(name, HostTensor::f32(tensor.shape().clone(), vec![1.0; tensor.shape().count()]));
    }
    // Very negative: steps are exponentials, and only these, not a sum with 1, tell one from another.
    for (what, dt) in [("negative", steps(|t| -15.0 - 65.0 * t)), ("all", steps(|t| -60.0 + 120.0 * t))] {
        all.insert("dt", HostTensor::f32([1, 1, length], dt));
        for c in [c.clone(), Config { mode: c.mode.segment(32), ..c.clone() }] {
            for (backend, run) in backends() {
                assert_matches(&format!("{backend}, {what}"), &c, &all, &run(&c, &all));
            }
        }
    }
    // From zeros, what one such token adds is its step: it is seen.
    all.insert("state", HostTensor::f32([1, 1, 2], vec![0.0; 2]));
    all.insert("dt", HostTensor::f32([1, 1, length], steps(|t| -80.0 - 0.0 * t)));
    for (backend, run) in backends() {
        let y = run(&c, &all).remove("y").unwrap().to_f64();
        let want = 2.0 * (-80.0f64).exp();
        let error = (y[0] / want - 1.0).abs();
        assert!(error < 1e-5, "{backend}: {}, expected {want}", y[0]);
    }
    // Beyond the range of softplus' exponential nothing is added, and nothing lost.
    all.insert("state", HostTensor::f32([1, 1, 2], vec![3.0, 4.0]));
    all.insert("dt", HostTensor::f32([1, 1, length], vec![-1000.0; length]));
    for (backend, run) in backends() {
        let got = run(&c, &all);
        assert_eq!(got.get("state").unwrap().to_f32(), [3.0, 4.0], "{backend}");
        assert_eq!(got.get("y").unwrap().to_f32(), vec![7.0; length], "{backend}");
    }
}

/// A length at which other scans gave NaN.
fn a_length_of_43884_is_right_to_the_end() {
    let c = full(Channels::new(1, 16, 43_884), 4);
    let all = inputs(&c);
    let at = [0, 1, 20_000, 43_883];
    let got = c.cpu(&all).unwrap();
    let y = got.get("y").unwrap();
    assert!(y.to_f32().iter().all(|x| x.is_finite()));
    let exact = c.reference(&all, Precision::F64, Rows::At(&at));
    let picked: Vec<f64> = y.to_f64().chunks_exact(43_884).flat_map(|row| at.map(|n| row[n])).collect();
    let error = tolerance::relative_rms(&picked, &exact[0].1);
    assert!(error < 2e-6, "{error:.2e}");
}

fn a_and_its_logarithm_mean_the_same() {
    let c = full(Channels::new(1, 10, 100), 5);
    let logarithm = Config { a_log: true, ..c.clone() };
    let mut all = inputs(&logarithm);
    let a = all.get("a_log").unwrap().to_f32().into_iter().map(|a| -a.exp()).collect();
    all.insert("a", HostTensor::f32([10, 5], a));
    for (backend, run) in backends() {
        let [x, y] = [&c, &logarithm].map(|c| run(c, &all).remove("y").unwrap().to_f64());
        let error = tolerance::relative_rms(&x, &y);
        assert!(error < 1e-6, "{backend}: {error:.2e}");
    }
}

/// The two as they stand in a block, recorded one behind the other: what the convolution writes is the scan's x.
fn a_convolution_and_a_scan_run_in_one_encoder() {
    let Some(ctx) = context() else { return };
    let shape = Channels::new(1, 12, 90);
    let scan = Config { mode: Mode::new().carry().segment(32), ..full(shape, 5) };
    let conv = conv1d::Config::new(shape, 4);
    let mut all = inputs(&scan);
    all.insert("weight", HostTensor::f32([12, 4], random::normal(3, 0, 48)));
    let upload = |slot: &str, slots: &[subquad::tensor::Slot]| {
        let slot = slots.iter().find(|known| known.name == slot).unwrap();
        readback::upload(ctx, slot.name, &pack::pack(slot, &all)).unwrap()
    };
    let (plan, before) = (operator::compile(ctx, &scan).unwrap(), operator::compile(ctx, &conv).unwrap());
    let mut workspace = Workspace::new();
    workspace.reserve(ctx, plan.workspace()).unwrap();
    let mut none = Workspace::new();
    none.reserve(ctx, before.workspace()).unwrap();
    let [inner, y] = ["x", "y"].map(|name| readback::empty(ctx, name, shape.shape(), DType::F32).unwrap());
    let x = upload("x", plan.slots());
    let weights = upload("weights", before.slots());
    let tensors = conv1d::Tensors::new(&x, &weights, &inner);
    let first = before.bind(&Bound::from(tensors), &none).unwrap();
    let [dt, b, c, z, weights, state] =
        ["dt", "b", "c", "z", "weights", "state"].map(|name| upload(name, plan.slots()));
    let tensors = mamba::Tensors {
        x: &inner,
        dt: &dt,
        b: Some(&b),
        c: Some(&c),
        z: Some(&z),
        weights: &weights,
        y: &y,
        cu_seqlens: None,
        state: Some(&state),
    };
    let second = plan.bind(&Bound::from(tensors), &workspace).unwrap();
    let mut encoder = ctx.device().create_command_encoder(&Default::default());
    first.encode(&mut encoder);
    second.encode(&mut encoder);
    readback::submit(ctx, encoder).unwrap();

    let mut after = all.clone();
    after.insert("x", conv.cpu(&all).unwrap().remove("y").unwrap());
    let want = scan.cpu(&after).unwrap();
    for (name, tensor) in [("y", &y), ("state", &state)] {
        let got = readback::read_blocking(ctx, tensor).unwrap().to_f64();
        let error = tolerance::relative_rms(&got, &want.get(name).unwrap().to_f64());
        assert!(error < 1e-6, "{name}: {error:.2e}");
    }
}

/// Configurations and a seed of their inputs.
fn any_config() -> impl Strategy<Value = (Config, u64)> {
    let sizes = (1usize..=2, 1usize..=3, 1usize..=40, 1usize..=300, 1usize..=40);
    let segment = prop::option::of(1usize..=60);
    (sizes, segment, any::<[bool; 7]>(), any::<u64>()).prop_map(
        |((batch, groups, each, length, states), segment, [d, z, dt_bias, a_log, carry, half, own], seed)| {
            let dtype = if half { DType::F16 } else { DType::F32 };
            let groups = if own { Some(groups) } else { None };
            let shape = Channels::new(batch, groups.unwrap_or(1) * each, length).dtype(dtype);
            (
                Config {
                    groups,
                    d,
                    z,
                    dt_bias,
                    a_log,
                    mode: Mode { carry, segment, ..Mode::new() },
                    ..Config::new(shape, states)
                },
                seed,
            )
        },
    )
}

/// Any configurations against the definition, the same ones in every run.
fn any_shape_matches_the_definition_on_the_cpu() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let settings = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new_with_rng(settings, rng).run(&any_config(), |(c, seed)| {
        let all = seeded(&c, seed);
        let got = c.cpu(&all).unwrap();
        let verdicts = Reference::of(&c, &all, Rows::All).compare(&c, &all, Rows::All, &got);
        prop_assert_eq!(verdicts.len(), got.len());
        for (name, verdict) in verdicts {
            prop_assert!(verdict.ok, "`{}`: {:?}", name, verdict);
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

fn refused_before_anything_runs() {
    let base = Config::new(Channels::new(1, 6, 8), 4);
    for (config, sentence) in [
        (Config { states: 0, ..base.clone() }, "mamba: tensor `a`: expected 1 to 256 states S, found 0"),
        (
            Config { states: 257, a_log: true, ..base.clone() },
            "mamba: tensor `a_log`: expected 1 to 256 states S, found 257",
        ),
        (
            Config { groups: Some(4), ..base.clone() },
            "mamba: tensor `b`: expected groups G that divide the 6 channels, found 4 groups",
        ),
        (
            Config { groups: Some(0), ..base.clone() },
            "mamba: tensor `b`: expected groups G that divide the 6 channels, found 0 groups",
        ),
        (Config { mode: base.mode.segment(0), ..base.clone() }, "mamba: `segment`: expected 1 or more, found 0"),
        (
            Config { mode: Mode { decode: true, ..base.mode }, ..base.clone() },
            "mamba: `decode` needs the causal form with a carried state",
        ),
        (
            Config { mode: base.mode.decode().carry(), ..base.clone() },
            "mamba: tensor `x`: expected N = 1 to decode, found N = 8",
        ),
        (
            Config { shape: base.shape.length(1), mode: base.mode.decode().carry().segment(4), ..base.clone() },
            "mamba: `segment` cannot be used with decode, which takes one token",
        ),
        (
            Config { shape: Channels::new(1, 70_000, 70_000), ..base },
            "mamba: tensor `x` (elements) needs 4900000000, the limit of this device is 4294967295",
        ),
    ] {
        assert_eq!(config.program(&Caps::portable()).unwrap_err().to_string(), sentence);
    }
}

fn tensors_that_do_not_fit_shapes_or_flags_are_refused_by_name() {
    let whole: [(&str, &[usize]); 5] =
        [("x", &[2, 6, 8]), ("dt", &[2, 6, 8]), ("a", &[6, 4]), ("b", &[2, 4, 8]), ("c", &[2, 4, 8])];
    let refuse = |given: &[(&str, &[usize])], typed: &[(&str, &str)]| {
        // An empty shape stands for no tensor.
        let other = whole.iter().filter(|(name, _)| !given.iter().any(|(n, _)| n == name));
        let shape = |(name, dims): &(&str, &[usize])| ((*name).to_owned(), Shape::from(*dims));
        let shapes: Vec<_> = other.chain(given.iter().filter(|(_, dims)| !dims.is_empty())).map(shape).collect();
        let flags = Flags::from_pairs(typed);
        let (layout, dtype) = (Layout::Bhnd, DType::F32);
        let request = Request { flags: &flags, shapes: &shapes, layout, dtype, carry: false };
        OP.configure(&request).err().map_or_else(String::new, |error| error.to_string())
    };
    assert_eq!(refuse(&[], &[]), "");
    assert_eq!(refuse(&[("b", &[2, 3, 4, 8]), ("c", &[2, 3, 4, 8]), ("d", &[6])], &[]), "");
    for (given, typed, sentence) in [
        (
            &[("a_log", &[6usize, 4] as &[usize])] as &[(&str, &[usize])],
            &[][..],
            "mamba: tensor `a`: expected none beside `a_log`, found [6, 4]",
        ),
        (
            &[("a", &[])],
            &[],
            "mamba: tensor `a`: expected [C, S], or `a_log` in its place, found none (given: x, dt, b, c)",
        ),
        (&[("a", &[5, 4])], &[], "mamba: tensor `a`: expected C = 6 channels as in x, found [5, 4]"),
        (&[("a", &[6])], &[], "mamba: tensor `a`: expected rank 2 [C, S], found rank 1 [6]"),
        (&[("dt", &[2, 6, 9])], &[], "mamba: tensor `dt`: expected [2, 6, 8] as x, found [2, 6, 9]"),
        (&[("z", &[2, 5, 8])], &[], "mamba: tensor `z`: expected [2, 6, 8] as x, found [2, 5, 8]"),
        (&[("d", &[5])], &[], "mamba: tensor `d`: expected C = 6 channels as in x, found [5]"),
        (&[("dt_bias", &[7])], &[], "mamba: tensor `dt_bias`: expected C = 6 channels as in x, found [7]"),
        (&[("b", &[2, 5, 8])], &[], "mamba: tensor `b`: expected states S = 4 as in a, found [2, 5, 8]"),
        (&[("b", &[1, 4, 8])], &[], "mamba: tensor `b`: expected batch B = 2 as in x, found [1, 4, 8]"),
        (&[("c", &[2, 4, 9])], &[], "mamba: tensor `c`: expected length N = 8 as in x, found [2, 4, 9]"),
        (
            &[("b", &[4, 8])],
            &[],
            "mamba: tensor `b`: expected [B, G, S, N], [B, S, N] or, as a has it, [6, 4], found [4, 8]",
        ),
        (
            &[("b", &[2, 4, 4, 8])],
            &[],
            "mamba: tensor `b`: expected groups G that divide the 6 channels, not 4, found [2, 4, 4, 8]",
        ),
        (&[("c", &[2, 2, 4, 8])], &[], "mamba: tensor `c`: expected the groups that b has, found [2, 2, 4, 8]"),
        (&[], &[("segment", "0")], "mamba: --segment: expected a whole number from 1 to 2^64 - 1, found `0`"),
        (
            &[],
            &[("decode", "true"), ("segment", "4")],
            "mamba: --segment cannot be used with decode, which takes one token",
        ),
    ] {
        assert_eq!(refuse(given, typed), sentence);
    }
}

/// Decay factors in both forms that devices have, over 2^20 pairs of a step and a rate, or 2^24 with SUBQUAD_ALL: near 1
/// without bias, because such errors accumulate, and elsewhere as close as WGSL lets exp2 be.
fn decay_factors_are_right_over_all_steps_and_rates() {
    let Some(ctx) = context() else { return };
    let states = 256;
    let channels = if std::env::var("SUBQUAD_ALL").is_ok() { 1 << 16 } else { 1 << 12 };
    let mode = Mode::new().carry().decode();
    let c = Config { steps: Steps::plain(), mode, ..Config::new(Channels::new(1, channels, 1), states) };
    // Logarithms of steps and rates are spread evenly, so that products lie between 1e-8 and 100.
    let spread =
        |i: usize, of: usize, least: f64, most: f64| (least.ln() + (most / least).ln() * i as f64 / of as f64).exp();
    let dt: Vec<f32> = (0..channels).map(|i| spread(i, channels, 1e-5, 1.0) as f32).collect();
    let a: Vec<f32> = (0..channels * states)
        .map(|i| -spread(i % states * 7919 + i / states % 7919, states * 7919, 1e-3, 100.0) as f32)
        .collect();
    let zeros = |shape: [usize; 3]| HostTensor::f32(shape, vec![0.0; shape.iter().product()]);
    let mut inputs = TensorMap::new();
    inputs.insert("x", zeros([1, channels, 1]));
    inputs.insert("dt", HostTensor::f32([1, channels, 1], dt.clone()));
    inputs.insert("b", zeros([1, states, 1]));
    inputs.insert("c", zeros([1, states, 1]));
    inputs.insert("a", HostTensor::f32([channels, states], a.clone()));
    inputs.insert("state", HostTensor::f32([1, channels, states], vec![1.0; channels * states]));
    for software in [true, false] {
        let program = c.program(&Caps { software, ..ctx.caps().clone() }).unwrap();
        let factors = on_gpu_with(ctx, program, &inputs).remove("state").unwrap().to_f32();
        let (mut near, mut far) = ((0.0f64, 0.0, 0), (0.0f64, 0.0, 0));
        for (i, factor) in factors.iter().enumerate() {
            let x = f64::from(dt[i / states]) * f64::from(a[i]);
            // Below the normal numbers a factor may be 0.
            if x < -86.6 {
                assert!(*factor <= 2.5e-38, "{factor} for e^{x}");
                continue;
            }
            let error = f64::from(*factor) / x.exp() - 1.0;
            let ulps = error * f64::from(1 << 24) / (1.0 + x.abs());
            let of = if x > -0.25 * std::f64::consts::LN_2 { &mut near } else { &mut far };
            *of = (of.0.max(ulps.abs()), of.1 + error, of.2 + 1);
        }
        let text = format!("software {software}: near 1 {near:?}, others {far:?}");
        assert!(near.0 <= 3.0 && (near.1 / f64::from(near.2)).abs() < 1e-9, "{text}");
        assert!(far.0 <= 6.0 && near.2 > 1000 && far.2 > 1000, "{text}");
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(decay_factors_are_right_over_all_steps_and_rates),
        test(pieces_equal_the_whole_bit_for_bit_on_the_cpu_at_any_cut),
        test(a_state_that_decays_to_nothing_within_a_step_is_that_of_the_step),
        test(steps_far_from_zero_are_right_on_both_sides),
        test(rates_at_the_end_of_f32_are_right),
        test(a_length_of_43884_is_right_to_the_end),
        test(a_and_its_logarithm_mean_the_same),
        test(a_convolution_and_a_scan_run_in_one_encoder),
        test(any_shape_matches_the_definition_on_the_cpu),
        test(refused_before_anything_runs),
        test(tensors_that_do_not_fit_shapes_or_flags_are_refused_by_name),
    ]
}
