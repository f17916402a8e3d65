//! Linear attention: what is particular to it.

use libtest_mimic::Trial;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use subquad::catalog::random;
use subquad::gpu::{Caps, Plan, Workspace, readback};
use subquad::operator;
use subquad::operator::Bound;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::linear::{self, Config, FeatureMap, Gate, Rule};
use subquad::tensor::{DType, HostTensor, Layout, Shape, TensorMap};
use subquad::verify::tolerance::{self, Reference};

use crate::support::{self, assert_matches, backends, context, on_gpu, test};

/// Random ones; log decays as trained models have them.
fn inputs(c: &Config) -> TensorMap {
    let mut all = support::inputs(&c.qkv);
    insert_gates(c, &mut all, 9, |x| -0.1 * x.abs());
    all
}

fn insert_gates(c: &Config, all: &mut TensorMap, seed: u64, of: impl Fn(f32) -> f32) {
    if let Some(slot) = c.gate_slot() {
        let shape = slot.parts[0].shape.clone();
        let values = random::normal(seed, 7, shape.count()).into_iter().map(of).collect();
        all.insert("g", HostTensor::f32(shape, values).cast(c.qkv.dtype));
    }
}

/// Configurations, how a carried state starts (zero or given) and a seed.
fn any_config() -> impl Strategy<Value = (Config, bool, u64)> {
    let heads = (1usize..=2, 1usize..=3, 1usize..=5);
    let sizes = (1usize..=150, 2usize..=100, 2usize..=100);
    let map = prop::sample::select(FeatureMap::OF_ELEMENTS.to_vec());
    let layout = prop::sample::select(vec![Layout::Bhnd, Layout::Bnhd]);
    let segment = prop::option::of(1usize..=60);
    let rule = prop::sample::select(vec![Rule::Linear, Rule::Gated(Gate::Head), Rule::Gated(Gate::Channel)]);
    (heads, sizes, (rule, map), layout, segment, any::<[bool; 2]>(), any::<u64>()).prop_map(
        |(
            (batch, kv_heads, group),
            (len, dim_k, dim_v),
            (rule, feature_map),
            layout,
            segment,
            [carry, given],
            seed,
        )| {
            let c = Config {
                rule,
                feature_map: Some(feature_map),
                normalize: Some(feature_map != FeatureMap::Identity),
                mode: Mode { segment, carry, ..Mode::new() },
                ..Config::new(
                    Qkv::new()
                        .batch(batch)
                        .heads(kv_heads * group)
                        .len(len)
                        .dim(dim_k)
                        .dim_v(dim_v)
                        .kv_heads(kv_heads)
                        .layout(layout),
                )
            };
            (c, carry && given, seed)
        },
    )
}

/// Any `count` configurations against the definition, the same ones in every run. Features, values and states are
/// positive, so that no sum cancels and rounding stays that of the terms.
fn any_config_matches(count: u32, run: impl Fn(&Config, &TensorMap) -> TensorMap) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let settings = ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new_with_rng(settings, rng).run(&any_config(), |(c, given, seed)| {
        let positive = |shape: Shape, stream| {
            let values = random::normal(seed, stream, shape.count()).into_iter().map(f32::abs).collect();
            HostTensor::f32(shape, values)
        };
        let mut all = TensorMap::new();
        for (name, heads, dim, stream) in [
            ("q", c.qkv.heads, c.qkv.dim_k, 0),
            ("k", c.qkv.kv_heads, c.qkv.dim_k, 1),
            ("v", c.qkv.kv_heads, c.qkv.dim_v, 2),
        ] {
            let shape = c.qkv.layout.shape(c.qkv.batch, heads, c.qkv.queries, dim);
            let signed = c.feature_map() != FeatureMap::Identity && name != "v";
            let values = random::normal(seed, stream, shape.count());
            all.insert(name, if signed { HostTensor::f32(shape, values) } else { positive(shape, stream) });
        }
        insert_gates(&c, &mut all, seed, |x| -x.abs().powi(4));
        if given {
            let part = [c.qkv.batch, c.qkv.kv_heads, c.qkv.dim_k, c.qkv.dim_v];
            all.insert("state", positive(part.into(), 3));
            if c.normalize() {
                all.insert("norm", positive(part[..3].into(), 4));
            }
        }
        let got = run(&c, &all);
        for (name, verdict) in Reference::of(&c, &all, Rows::All).compare(&c, &all, Rows::All, &got) {
            prop_assert!(verdict.ok, "`{}`: {:?}", name, verdict);
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

fn any_shape_matches_the_definition_on_the_cpu() {
    any_config_matches(48, |c, t| c.cpu(t).unwrap());
}

fn any_shape_matches_the_definition_on_the_gpu() {
    let Some(ctx) = context() else { return };
    any_config_matches(6, |c, t| on_gpu(ctx, c, t).outputs);
}

/// The library's own way in: plan, workspace, bind, encode.
fn a_plan_replays_over_a_dirty_workspace() {
    let Some(ctx) = context() else { return };
    let c = Config { mode: Mode::new().segment(16), ..Config::new(Qkv::new().heads(2).len(70).dim(16)) };
    let all = inputs(&c);
    let plan: Plan = operator::compile(ctx, &c).unwrap();
    let up = |name: &str| readback::upload(ctx, name, all.get(name).unwrap()).unwrap();
    let (q, k, v) = (up("q"), up("k"), up("v"));
    let o = readback::empty(ctx, "o", [1, 2, 70, 16], DType::F32).unwrap();
    let mut workspace = Workspace::new();
    assert!(!workspace.reserve(ctx, plan.workspace()).unwrap(), "nothing to replace yet");
    for buffer in workspace.buffers() {
        readback::fill(ctx, buffer, 0xff);
    }
    let tensors = linear::Tensors::new(&q, &k, &v, &o);
    let recording = plan.bind(&Bound::from(tensors), &workspace).unwrap();
    assert_eq!(recording.len(), 3, "{recording}");
    for round in 0..3 {
        readback::fill(ctx, o.buffer(), 0xff);
        let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if round == 1 {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            recording.encode_in(&mut pass);
        } else {
            recording.encode(&mut encoder);
        }
        readback::submit(ctx, encoder).unwrap();
        let mut got = TensorMap::new();
        got.insert("o", readback::read_blocking(ctx, &o).unwrap());
        assert_matches(&format!("round {round}"), &c, &all, &got);
    }
}

/// Decays of nothing, of everything, and of more than f32 has numbers for within a chunk.
fn extreme_decays_are_exact() {
    for gate in [Gate::Head, Gate::Channel] {
        let c = Config {
            mode: Mode::new().carry(),
            ..Config::new(Qkv::new().heads(2).len(130).dim(8)).rule(Rule::Gated(gate))
        };
        for segment in [None, Some(40)] {
            let c = Config { mode: Mode { segment, ..c.mode }, ..c.clone() };
            let mut all = inputs(&c);
            // e^-250 within 64 tokens, e^-1000 within them, and as many without any.
            for log in [-250.0 / 64.0, -1000.0 / 64.0, -1e-4] {
                insert_gates(&c, &mut all, 5, |_| log);
                for (backend, run) in backends() {
                    assert_matches(&format!("{backend}, {gate:?}, {log}"), &c, &all, &run(&c, &all));
                }
            }
            // Without decay the rule is that of sums, bit for bit on a GPU.
            insert_gates(&c, &mut all, 5, |_| 0.0);
            let sums = Config { rule: Rule::Linear, normalize: Some(false), ..c.clone() }.map(FeatureMap::Identity);
            for (backend, run) in backends() {
                let (got, want) = (run(&c, &all), run(&sums, &all));
                for (name, want) in want.iter() {
                    let error = tolerance::relative_rms(&got.get(name).unwrap().to_f64(), &want.to_f64());
                    assert!(
                        error <= if backend == "gpu" { 0.0 } else { 1e-6 },
                        "{backend}, {gate:?}, {name}: {error:e}"
                    );
                }
            }
            // Where everything is forgotten a token sees itself alone: token 77, and those behind it see it.
            let mut forgets = all.get("g").unwrap().to_f32();
            let each = forgets.len() / (2 * 130);
            for head in 0..2 {
                forgets[(head * 130 + 77) * each..][..each].fill(f32::NEG_INFINITY);
            }
            all.insert("g", HostTensor::f32(all.get("g").unwrap().shape().clone(), forgets));
            let (q, k, v) =
                (all.get("q").unwrap().to_f64(), all.get("k").unwrap().to_f64(), all.get("v").unwrap().to_f64());
            for (backend, run) in backends() {
                let got = run(&c, &all);
                assert_matches(&format!("{backend}, {gate:?}, forgets"), &c, &all, &got);
                let o = got.get("o").unwrap().to_f64();
                let row = |x: &[f64]| x[77 * 8..78 * 8].to_vec();
                let score: f64 = row(&q).iter().zip(row(&k)).map(|(q, k)| q * k).sum::<f64>() / 8f64.sqrt();
                for (o, v) in row(&o).iter().zip(row(&v)) {
                    assert!(
                        (o - score * v).abs() <= 1e-6 * (score * v).abs().max(1e-3),
                        "{backend}: {o} {}",
                        score * v
                    );
                }
            }
        }
    }
}

/// Thousands of factors just below 1: each rounded to the nearest number they would be wrong by the same, here by up
/// to 2e-3. Sums of equal values of about 1000 settle where their own rounding holds them, up to 3e-5 from the limit at
/// -1e-3 whatever the factors are: there the values differ only.
fn slow_decays_do_not_drift() {
    let qkv = Qkv::new().heads(1).len(20_000).dim(4);
    let c = Config { scale: Some(1.0), ..Config::new(qkv).rule(Rule::Gated(Gate::Head)) };
    let mut all = TensorMap::new();
    for name in ["q", "k"] {
        all.insert(name, HostTensor::f32([1, 1, 20_000, 4], vec![1.0; 80_000]));
    }
    let equal = vec![1.0f32; 20_000];
    let differ: Vec<f32> = (0..20_000u32).map(|n| (n.wrapping_mul(2_891_336_453) >> 20) as f32 / 2048.0).collect();
    let forms = [(-1e-3f32, &differ), (-1e-4, &differ), (-1.3e-5, &differ), (-1e-4, &equal), (-1.3e-5, &equal)];
    for (log, values) in forms {
        all.insert("v", HostTensor::f32([1, 1, 20_000, 4], values.iter().flat_map(|v| [*v; 4]).collect()));
        all.insert("g", HostTensor::f32([1, 1, 20_000], vec![log; 20_000]));
        let log = f64::from(log);
        let want = 4.0 * values.iter().fold(0.0, |sum, v| sum * log.exp() + f64::from(*v));
        for (backend, run) in backends() {
            let got = f64::from(*run(&c, &all).get("o").unwrap().to_f32().last().unwrap());
            assert!((got / want - 1.0).abs() < 1e-5, "{backend}, {log}: {got}, expected {want}");
        }
    }
}

fn refused_before_anything_runs() {
    let base = Config::new(Qkv::new().heads(4).len(8).dim(16));
    let caps = Caps::portable();
    for (config, sentence) in [
        (
            Config { qkv: base.qkv.kv_heads(3), ..base.clone() },
            "linear: tensor `k`: expected key heads that divide the 4 query heads, found 3 key heads",
        ),
        (
            Config { qkv: base.qkv.keys(9), ..base.clone() },
            "linear: tensor `k`: expected M = N = 8 for the causal form, found M = 9",
        ),
        (
            Config { qkv: base.qkv.dim_k(1025), ..base.clone() },
            "linear: tensor `k`: expected D of at most 1024, found 1025",
        ),
        (Config { qkv: base.qkv.batch(0), ..base.clone() }, "linear: `B`: expected 1 or more, found 0"),
        (Config { mode: base.mode.non_causal().carry(), ..base.clone() }, "linear: `carry` needs the causal form"),
        (
            Config { mode: base.mode.decode().carry(), ..base.clone() },
            "linear: tensor `q`: expected N = 1 to decode, found N = 8",
        ),
        (
            Config { qkv: base.qkv.batch(1 << 62), ..base.clone() },
            "linear: tensor `q`: expected a shape that fits in memory, found [4611686018427387904, 4, 8, 16]",
        ),
        (
            Config { qkv: base.qkv.batch(1 << 57), mode: base.mode.carry(), ..base.clone() },
            "linear: tensor `q`: expected a shape that fits in memory, found [144115188075855872, 4, 8, 16]",
        ),
        (Config { scale: Some(f32::NAN), ..base.clone() }, "linear: `scale`: expected a finite number, found NaN"),
        (
            Config { norm_eps: Some(-1.0), ..base.clone() },
            "linear: `norm_eps`: expected a finite number of 0 or more, found -1",
        ),
        (
            Config { mode: Mode::new().non_causal(), ..base.clone().rule(Rule::Gated(Gate::Head)) },
            "linear: `causal` cannot be used with rule gated, which is causal",
        ),
        (Config { mode: base.mode.segment(0), ..base.clone() }, "linear: `segment`: expected 1 or more, found 0"),
        (
            Config { qkv: base.qkv.dtype(DType::F16), ..base.clone() },
            "linear: f16 storage needs the device feature SHADER_F16, which this device was made without",
        ),
    ] {
        assert_eq!(config.program(&caps).unwrap_err().to_string(), sentence);
    }
}

fn inputs_that_do_not_fit_are_refused_by_name_on_the_host() {
    let c = Config { mode: Mode::new().carry(), ..Config::new(Qkv::new().heads(1).len(8).dim(4)) };
    let mut all = inputs(&c);
    all.insert("state", HostTensor::zeros([1, 1, 4, 4], DType::F16));
    let error = c.cpu(&all).unwrap_err().to_string();
    assert_eq!(error, "linear: tensor `state`: expected f32 [1, 1, 4, 4], found f16 [1, 1, 4, 4]");
    all.remove("state");
    all.remove("v");
    let error = c.cpu(&all).unwrap_err().to_string();
    assert_eq!(error, "linear: tensor `v`: expected f32 [1, 1, 8, 4], found none (given: q, k)");
}

fn what_does_not_fit_the_device_is_refused_with_both_numbers() {
    let Some(ctx) = context() else { return };
    let refuse = |heads, len| {
        operator::compile(ctx, &Config::new(Qkv::new().heads(heads).len(len).dim(256))).unwrap_err().to_string()
    };
    let error = refuse(64, 1 << 20);
    assert_eq!(error, "linear: tensor `q` (elements) needs 17179869184, the limit of this device is 4294967295");
    let error = refuse(15, 1 << 20);
    // One key head is a gibibyte, in the first step that of k; where that fits, q is fifteen.
    let needs = |what, bytes| error.starts_with(&format!("linear: tensor {what}) needs {bytes}, the limit"));
    assert!(needs("`k` (bytes of one key head", 1u64 << 30) || needs("`q` (bytes", 15 << 30), "{error}");
}

fn wrong_tensors_are_refused_by_name_when_bound() {
    let Some(ctx) = context() else { return };
    let c = Config::new(Qkv::new().heads(1).len(8).dim(4));
    let plan = operator::compile(ctx, &c).unwrap();
    let mut workspace = Workspace::new();
    workspace.reserve(ctx, plan.workspace()).unwrap();
    let make = |name, shape: [usize; 4]| readback::empty(ctx, name, shape, DType::F32).unwrap();
    let (q, k, v, o) =
        (make("q", [1, 1, 8, 4]), make("k", [1, 1, 8, 4]), make("v", [1, 1, 8, 4]), make("o", [1, 1, 8, 4]));
    let short = make("short", [1, 1, 7, 4]);
    let bind = |named: &[(&str, &subquad::tensor::Tensor)]| plan.bind(named, &workspace).unwrap_err().to_string();
    assert_eq!(
        bind(&[("q", &q), ("k", &short), ("v", &v), ("o", &o)]),
        "linear: tensor `k`: expected f32 [1, 1, 8, 4], found f32 [1, 1, 7, 4]"
    );
    assert_eq!(
        bind(&[("q", &q), ("k", &k), ("o", &o)]),
        "linear: tensor `v`: expected f32 [1, 1, 8, 4], found none (given: q, k, o)"
    );
    assert_eq!(
        bind(&[("q", &q), ("k", &k), ("v", &v), ("o", &q)]),
        "linear: tensor `o`: expected a buffer of its own (`q` shares it), found one buffer bound twice"
    );
}

/// A quadratic form as a second opinion on the definition itself.
fn the_definition_equals_the_masked_quadratic_form() {
    let c =
        Config { norm_eps: Some(1e-3), scale: Some(0.7), ..Config::new(Qkv::new().heads(1).len(40).dim(6).dim_v(5)) };
    let all = inputs(&c);
    let [q, k, v] = ["q", "k", "v"].map(|n| all.get(n).unwrap().to_f64());
    let phi = |x: f64| if x > 0.0 { x + 1.0 } else { x.exp() };
    let o = &c.reference(&all, Precision::F64, Rows::All)[0].1;
    for i in 0..40 {
        let weights: Vec<f64> = (0..=i)
            .map(|j| (0..6).map(|d| phi(q[i * 6 + d]) * phi(k[j * 6 + d])).sum::<f64>() * f64::from(0.7f32))
            .collect();
        let sum: f64 = weights.iter().sum::<f64>() + f64::from(1e-3f32);
        for e in 0..5 {
            let want = weights.iter().enumerate().map(|(j, w)| w * v[j * 5 + e]).sum::<f64>() / sum;
            assert!((o[i * 5 + e] - want).abs() < 1e-12);
        }
    }
}

/// A signed feature map lets the denominator of the first token cancel nearly or nearly altogether. Numerator and denominator
/// are then small together, and each backend stays within what the definition itself errs.
fn a_first_denominator_that_nearly_cancels_stays_as_right_as_the_definition() {
    for left in [1e-1, 1e-3, 1e-5] {
        let qkv = Qkv::new().heads(4).len(40).dim(136).dim_v(32);
        let c = Config { normalize: Some(true), ..Config::new(qkv).map(FeatureMap::Identity) };
        let mut all = inputs(&c);
        let (mut q, k) = (all.get("q").unwrap().to_f32(), all.get("k").unwrap().to_f32());
        for head in 0..4 {
            let first = head * 40 * 136..head * 40 * 136 + 136;
            let (q, k) = (&mut q[first.clone()], &k[first]);
            let dot = |x: &[f32]| x.iter().zip(k).map(|(x, k)| f64::from(*x) * f64::from(*k)).sum::<f64>();
            // What is left of q along k, as a share of its length.
            let square = dot(k);
            let along = (dot(q) / square - left) as f32;
            q.iter_mut().zip(k).for_each(|(q, k)| *q -= along * k);
        }
        all.insert("q", HostTensor::f32([1, 4, 40, 136], q));
        for (backend, run) in backends() {
            assert_matches(&format!("{backend}, {left} left"), &c, &all, &run(&c, &all));
        }
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(any_shape_matches_the_definition_on_the_cpu),
        test(any_shape_matches_the_definition_on_the_gpu),
        test(a_plan_replays_over_a_dirty_workspace),
        test(extreme_decays_are_exact),
        test(slow_decays_do_not_drift),
        test(a_first_denominator_that_nearly_cancels_stays_as_right_as_the_definition),
        test(refused_before_anything_runs),
        test(inputs_that_do_not_fit_are_refused_by_name_on_the_host),
        test(what_does_not_fit_the_device_is_refused_with_both_numbers),
        test(wrong_tensors_are_refused_by_name_when_bound),
        test(the_definition_equals_the_masked_quadratic_form),
    ]
}
