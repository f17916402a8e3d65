//! Linear attention: feature maps that are not of single elements.

use libtest_mimic::Trial;
use subquad::catalog::case::Case;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::gpu::Caps;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::find;
use subquad::ops::linear::{Config, FeatureMap, Gate, Rule};
use subquad::tensor::{HostTensor, TensorMap, Values};
use subquad::verify::tolerance;

use crate::support::{self, assert_matches, backends, test};

/// The flag that names the feature map of a configuration.
fn map_flags(c: &Config) -> Flags {
    Flags::from_pairs(&[("feature-map", c.feature_map().name())])
}

fn op() -> &'static Op {
    find("linear").unwrap()
}

/// With this map, of few features.
fn config(map: FeatureMap, qkv: Qkv) -> Config {
    Config { features: 12, max_len: Some(300), normalize: Some(true), ..Config::new(qkv).map(map) }
}

/// Random ones, q and k so many times as large.
fn inputs(c: &Config, times: f32) -> TensorMap {
    let mut all = support::inputs(&c.qkv);
    for name in ["q", "k"] {
        let tensor = all.get(name).unwrap();
        let values = tensor.to_f32().iter().map(|x| times * x).collect();
        all.insert(name, HostTensor::f32(tensor.shape().clone(), values));
    }
    if let Some(slot) = c.gate_slot() {
        let shape = slot.parts[0].shape.clone();
        let values = random::normal(9, 7, shape.count()).into_iter().map(|x| -0.1 * x.abs()).collect();
        all.insert("g", HostTensor::f32(shape, values));
    }
    for (name, tensor) in random::parameters(op(), &map_flags(c), c, &all, 5).unwrap().iter() {
        all.insert(name, tensor.clone());
    }
    all
}

/// Exponents of hundreds, by sums that never leave them.
fn performer_is_exact_where_its_features_are_beyond_all_numbers() {
    let (n, d, f) = (40, 16, 12);
    let qkv = Qkv::new().heads(1).len(n).dim(d).dim_v(5);
    for (times, gated) in [(1.0, false), (8.0, false), (12.0, true), (16.0, false)] {
        let rule = if gated { Rule::Gated(Gate::Head) } else { Rule::Linear };
        let c = Config { rule, ..config(FeatureMap::Performer, qkv) };
        let all = inputs(&c, times);
        let [q, k, v, omega] = ["q", "k", "v", "omega"].map(|name| all.get(name).unwrap().to_f64());
        let logs = all.get("g").map_or(vec![0.0; n], HostTensor::to_f64);
        let exponents = |x: &[f64]| -> Vec<f64> {
            let half: f64 = x.iter().map(|x| x * x).sum::<f64>() / 2.0 / (d as f64).sqrt();
            let along = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() / (d as f64).powf(0.25);
            omega.chunks_exact(d).map(|w| along(w) - half).collect()
        };
        let mut want = Vec::new();
        for i in 0..n {
            let query = exponents(&q[i * d..][..d]);
            let mut weights = Vec::new();
            for j in 0..=i {
                let passed: f64 = logs[j + 1..=i].iter().sum();
                let each = exponents(&k[j * d..][..d]).into_iter().zip(&query).map(|(k, q)| k + q + passed);
                weights.push(each.collect::<Vec<f64>>());
            }
            let top = weights.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = weights.iter().map(|w| w.iter().map(|w| (w - top).exp()).sum()).collect();
            let sum: f64 = weights.iter().sum();
            want.extend((0..5).map(|e| weights.iter().enumerate().map(|(j, w)| w * v[j * 5 + e]).sum::<f64>() / sum));
        }
        // Where a key's largest feature and a query's are far apart, one scale a head leaves nothing of their product.
        let definition = &c.reference(&all, Precision::F64, Rows::All)[0].1;
        assert!(tolerance::relative_rms(definition, &want) < 1e-9, "{times}");
        if times > 8.0 {
            assert!(exponents(&k[..d]).iter().all(|x| x.exp() as f32 == 0.0), "{times}: nothing underflows");
        }
        for (backend, run) in backends() {
            for c in [
                c.clone(),
                Config { mode: c.mode.segment(9), ..c.clone() },
                Config { normalize: Some(false), ..c.clone() },
            ] {
                let got = run(&c, &all);
                assert!(got.get("o").unwrap().to_f32().iter().all(|x| x.is_finite()), "{backend}, {times}");
                assert_matches(&format!("{backend}, {times}, {c:?}"), &c, &all, &got);
            }
        }
        assert_eq!(f, c.features);
    }
}

fn a_query_whose_features_all_vanish_gives_zeros() {
    let qkv = Qkv::new().heads(1).len(3).dim(2);
    for map in [FeatureMap::Performer, FeatureMap::PerformerRelu, FeatureMap::Cosformer, FeatureMap::Relu] {
        let c = Config { norm_eps: Some(0.0), features: 2, ..config(map, qkv) };
        let mut all = support::inputs(&qkv);
        // The second query is along the second feature alone, or none; the keys are all along the first.
        all.insert("q", HostTensor::f32([1, 1, 3, 2], vec![1.0, 0.0, -1.0, 0.0, 1.0, 0.0]));
        all.insert("k", HostTensor::f32([1, 1, 3, 2], vec![1.0, 0.0, 2.0, 0.0, 1.0, 0.0]));
        if c.omega_slot().is_some() {
            let omega = if map == FeatureMap::Performer { [500.0, 0.0, -500.0, 0.0] } else { [1.0, 0.0, 2.0, 0.0] };
            all.insert("omega", HostTensor::f32([2, 2], omega.to_vec()));
        }
        for (backend, run) in backends() {
            let o = run(&c, &all).get("o").unwrap().to_f32();
            assert_eq!(o[2..4], [0.0, 0.0], "{backend}, {map:?}");
            assert!([0, 1, 4, 5].iter().all(|i| o[*i] != 0.0 && o[*i].is_finite()), "{backend}, {map:?}: {o:?}");
        }
    }
}

/// What is added to the weights is added to the true ones, whatever the state is relative to.
fn performer_adds_norm_eps_to_the_true_weights() {
    let qkv = Qkv::new().heads(2).len(20).dim(8).dim_v(3);
    let plain = Config { normalize: Some(false), scale: Some(1.0), ..config(FeatureMap::Performer, qkv) };
    let c = Config { norm_eps: Some(0.3), normalize: Some(true), ..plain.clone() };
    let all = inputs(&c, 1.0);
    let mut ones = all.clone();
    ones.insert("v", HostTensor::f32([1, 2, 20, 3], vec![1.0; 120]));
    for (backend, run) in backends() {
        let [sums, weights, got] =
            [(&plain, &all), (&plain, &ones), (&c, &all)].map(|(c, t)| run(c, t).get("o").unwrap().to_f64());
        let want: Vec<f64> =
            sums.iter().zip(&weights).map(|(sum, weight)| sum / (weight + f64::from(0.3f32))).collect();
        assert!(tolerance::relative_rms(&got, &want) < 3e-6, "{backend}");
    }
}

fn cosformer_weighs_by_the_cosine_of_the_distance() {
    let (n, d, e, most) = (30, 6, 5, 41.0);
    let c = Config { max_len: Some(41), ..config(FeatureMap::Cosformer, Qkv::new().heads(1).len(n).dim(d).dim_v(e)) };
    let all = inputs(&c, 1.0);
    let [q, k, v] = ["q", "k", "v"].map(|name| all.get(name).unwrap().to_f64());
    let mut want = Vec::new();
    for i in 0..n {
        let weight = |j: usize| -> f64 {
            let score: f64 = (0..d).map(|x| q[i * d + x].max(0.0) * k[j * d + x].max(0.0)).sum();
            score * (std::f64::consts::FRAC_PI_2 * (i as f64 - j as f64) / most).cos()
        };
        let weights: Vec<f64> = (0..=i).map(weight).collect();
        let sum: f64 = weights.iter().sum::<f64>() + f64::from(1e-6f32);
        want.extend((0..e).map(|x| weights.iter().enumerate().map(|(j, w)| w * v[j * e + x]).sum::<f64>() / sum));
    }
    assert!(tolerance::relative_rms(&c.reference(&all, Precision::F64, Rows::All)[0].1, &want) < 1e-12);
    for (backend, run) in backends() {
        let error = tolerance::relative_rms(&run(&c, &all).get("o").unwrap().to_f64(), &want);
        assert!(error < 1e-6, "{backend}: {error:.2e}");
    }
}

/// Where a sequence is said to begin changes nothing but the state: only distances count, and none is lost far out.
fn cosformer_goes_on_from_any_position() {
    let c = Config {
        max_len: Some(77),
        mode: Mode::new().carry(),
        ..config(FeatureMap::Cosformer, Qkv::new().heads(2).len(20).dim(6).dim_v(5))
    };
    for segment in [None, Some(8)] {
        let c = Config { mode: Mode { segment, ..c.mode }, ..c.clone() };
        let mut all = inputs(&c, 1.0);
        for (backend, run) in backends() {
            let mut first = None;
            for position in [0i64, 100, 5_000_000_000, (1 << 62) + 12_345] {
                all.insert("position", HostTensor::new([1], Values::I64(vec![position])));
                let got = run(&c, &all);
                assert_matches(&format!("{backend}, from {position}"), &c, &all, &got);
                assert_eq!(got.get("position").unwrap().values(), &Values::I64(vec![position + 20]), "{backend}");
                let o = got.get("o").unwrap().to_f64();
                let error = tolerance::relative_rms(&o, first.get_or_insert(o.clone()));
                assert!(error < 2e-6, "{backend}, from {position}: {error:.2e}");
            }
        }
    }
}

/// Orthogonal in blocks of D, each as long as a Gaussian row; or Gaussian rows over the root of D.
fn omega_is_drawn_as_its_map_has_it() {
    let (f, d) = (300, 16);
    let rows = |map| {
        let c = Config { features: f, ..Config::new(Qkv::new().heads(1).len(4).dim(d).dim_v(4)).map(map) };
        random::parameters(op(), &map_flags(&c), &c, &support::inputs(&c.qkv), 3)
            .unwrap()
            .get("omega")
            .unwrap()
            .to_f64()
    };
    let dot = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| x * y).sum() };
    let square = |omega: &[f64]| omega.iter().map(|x| x * x).sum::<f64>() / f as f64;
    let omega = rows(FeatureMap::Performer);
    for block in omega.chunks(d * d) {
        let rows: Vec<&[f64]> = block.chunks_exact(d).collect();
        for (i, x) in rows.iter().enumerate() {
            rows[..i].iter().for_each(|y| assert!(dot(x, y).abs() < 1e-5 * dot(x, x).max(dot(y, y)), "not orthogonal"));
        }
    }
    let lengths: Vec<f64> = omega.chunks_exact(d).map(|x| dot(x, x)).collect();
    assert!((square(&omega) / d as f64 - 1.0).abs() < 0.1, "{}", square(&omega));
    // Of chi squared with D degrees the variance is 2 D.
    let variance = lengths.iter().map(|x| (x - d as f64).powi(2)).sum::<f64>() / f as f64;
    assert!((variance / (2 * d) as f64 - 1.0).abs() < 0.4, "{variance}");
    assert!((square(&rows(FeatureMap::PerformerRelu)) - 1.0).abs() < 0.1);
}

/// One omega of every key head equals what each has of its own.
fn omega_may_be_each_key_heads_own() {
    for map in [FeatureMap::Performer, FeatureMap::PerformerRelu] {
        let c = Config {
            omega_per_head: true,
            ..config(map, Qkv::new().batch(2).heads(4).len(20).dim(6).dim_v(5).kv_heads(2))
        };
        let all = inputs(&c, 1.0);
        for (backend, run) in backends() {
            assert_matches(&format!("{backend}, {map:?}"), &c, &all, &run(&c, &all));
        }
    }
}

fn refused_in_one_sentence() {
    let qkv = Qkv::new().heads(2).len(8).dim(16);
    let caps = Caps::portable();
    let performer = Config::new(qkv).map(FeatureMap::Performer);
    let cosformer = Config::new(qkv).map(FeatureMap::Cosformer);
    for (c, sentence) in [
        (Config { features: 0, ..performer.clone() }, "linear: `features`: expected 1 to 1048576, found 0"),
        (
            Config { features: 4000, ..performer.clone() },
            "linear: workgroup memory (bytes) for features of width 4000 and D = 16 needs",
        ),
        (
            Config { rule: Rule::Gated(Gate::Channel), ..performer },
            "linear: tensor `g`: expected one log decay a head under the feature map performer, whose state has one scale a \
             head, found one a channel",
        ),
        (
            Config { max_len: Some(7), ..cosformer.clone() },
            "linear: `max_len`: expected 8, the tokens of the run, to 536870912, found 7",
        ),
        (
            Config { mode: cosformer.mode.carry(), ..cosformer },
            "linear: `max_len`: expected a length, which a carried state does not say, found none",
        ),
    ] {
        let error = c.program(&caps).unwrap_err().to_string();
        assert!(error.starts_with(sentence), "{error}");
    }
    let refused = |flags: &[(&str, &str)], with: &[&'static str]| {
        let mut case = Case::new("x", &[("H", 2), ("N", 4), ("D", 4), ("F", 9)]);
        case = flags.iter().fold(case, |case, (name, value)| case.flag(name, value));
        case.with = with.to_vec();
        case.configure(op()).err().map(|error| error.to_string())
    };
    for (flags, with, sentence) in [
        (
            &[("features", "4")][..],
            &[][..],
            "linear: --features needs a feature map with random features: performer or performer-relu",
        ),
        (&[("max-len", "4")], &[], "linear: --max-len needs --feature-map cosformer"),
        (
            &[("feature-map", "relu")],
            &["omega"],
            "linear: tensor `omega`: expected none with --feature-map relu, found [9, 4]",
        ),
        (
            &[("feature-map", "performer"), ("features", "8")],
            &["omega"],
            "linear: tensor `omega`: expected 8 as in --features, found [9, 4]",
        ),
    ] {
        assert_eq!(refused(flags, with).as_deref(), Some(sentence));
    }
    assert_eq!(refused(&[("feature-map", "performer")], &["omega"]), None);
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(performer_is_exact_where_its_features_are_beyond_all_numbers),
        test(a_query_whose_features_all_vanish_gives_zeros),
        test(performer_adds_norm_eps_to_the_true_weights),
        test(cosformer_weighs_by_the_cosine_of_the_distance),
        test(cosformer_goes_on_from_any_position),
        test(omega_is_drawn_as_its_map_has_it),
        test(omega_may_be_each_key_heads_own),
        test(refused_in_one_sentence),
    ]
}
