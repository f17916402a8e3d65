//! SLAY: what is particular to it.

use libtest_mimic::Trial;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::request::Request;
use subquad::catalog::spec::Op;
use subquad::gpu::{Caps, Context, Plan, Program};
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::slay::{Config, OP, Poly, quadrature};
use subquad::tensor::{DType, HostTensor, Layout, Shape, TensorMap};
use subquad::verify::run::Prepared;
use subquad::verify::tolerance::{self, Reference};

use crate::bytes::moved_by;
use crate::support::{self, assert_matches, assert_same_bits, backends, roomy, test};

fn op() -> &'static Op {
    &OP
}

/// Random q, k and v of the shapes, and drawn parameters.
fn inputs(c: &Config) -> TensorMap {
    let mut all = support::inputs(&c.qkv);
    let drawn = random::parameters(op(), &Flags::new(), c, &all, 11).unwrap();
    drawn.into_iter().for_each(|(name, tensor)| all.insert(name, tensor));
    all
}

fn values(all: &TensorMap, name: &str) -> Vec<f64> {
    all.get(name).unwrap().to_f64()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn unit(x: &[f64]) -> Vec<f64> {
    let norm = dot(x, x).sqrt().max(1e-12);
    x.iter().map(|x| x / norm).collect()
}

/// The two maps of a row as key head `g` has them, by the formula.
fn maps(c: &Config, all: &TensorMap, g: usize, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (d, f) = (c.qkv.dim_k, c.features);
    let u = unit(x);
    let p = c.anchors;
    let along = |name: &str| -> Vec<f64> { values(all, name).chunks(d).map(|row| dot(row, &u)).collect() };
    let square = match c.poly {
        Poly::Anchor => along("anchors").iter().map(|x| x * x / (p as f64).sqrt()).collect(),
        Poly::Nystrom => {
            // L^-1 of K = L L^T in place of K^-1/2: other features, the same products.
            let squares: Vec<f64> = along("anchors").iter().map(|x| x * x).collect();
            let anchors = values(all, "anchors");
            let kernel = |i: usize, j: usize| dot(&anchors[i * d..][..d], &anchors[j * d..][..d]).powi(2);
            let mut low = vec![vec![0.0; p]; p];
            let mut solved = vec![0.0; p];
            for i in 0..p {
                for j in 0..i {
                    low[i][j] = (kernel(i, j) - dot(&low[i][..j], &low[j][..j])) / low[j][j];
                }
                low[i][i] = (kernel(i, i) + 1e-3 - dot(&low[i][..i], &low[i][..i])).sqrt();
                solved[i] = (squares[i] - dot(&low[i][..i], &solved[..i])) / low[i][i];
            }
            solved
        }
        Poly::Maclaurin => {
            let along = along("signs");
            (0..p).map(|i| along[i] * along[p + i] / (p as f64).sqrt()).collect()
        }
        Poly::TensorSketch => {
            let along = along("sketches");
            let mut sketch = vec![0.0; p];
            (0..p * p).for_each(|at| sketch[(at / p + at % p) % p] += along[at / p] * along[p + at % p]);
            sketch
        }
        Poly::Laplace | Poly::Hadamard => vec![1.0],
        Poly::Exact => {
            let weight = |i: usize, j: usize| if i == j { 1.0 } else { 2f64.sqrt() };
            (0..d).flat_map(|i| (i..d).map(move |j| (i, j))).map(|(i, j)| weight(i, j) * u[i] * u[j]).collect()
        }
        other => panic!("{other:?}"),
    };
    let omega = values(all, "omega");
    let mut exponential = Vec::new();
    for (r, (s, w)) in quadrature::nodes(c.epsilon.into(), c.nodes).into_iter().enumerate() {
        for omega in omega[(r * c.qkv.kv_heads + g) * f * d..][..f * d].chunks(d) {
            let along = dot(omega, &u);
            let more = match c.poly {
                Poly::Laplace => (2.0 + f64::from(c.epsilon)) / 2.0,
                Poly::Hadamard => along * along / (f as f64).sqrt(),
                _ => 1.0,
            };
            exponential.push(more * (w / f as f64).sqrt() * ((2.0 * s).sqrt() * along - s).exp());
        }
    }
    (square, exponential)
}

/// Every map for the square. Denominators of signed features are kept from zero.
fn every_map() -> impl Iterator<Item = Config> {
    let base = Config::new(Qkv::new().batch(2).heads(4).len(70).dim(10).dim_v(12).kv_heads(2));
    let base = Config { nodes: 3, anchors: 5, features: 7, ..base };
    Poly::ALL.into_iter().map(move |poly| {
        let signed = matches!(poly, Poly::Nystrom | Poly::Maclaurin | Poly::TensorSketch);
        Config { poly, norm_eps: if signed { 100.0 } else { base.norm_eps }, ..base.clone() }
    })
}

/// What the two maps of the interface make: any head count, sizes that no tile divides.
fn several() -> [Config; 3] {
    let base = Config::new(Qkv::new().batch(2).heads(4).len(70).dim(10).dim_v(12).kv_heads(2));
    [
        Config { nodes: 3, anchors: 5, features: 7, ..base.clone() },
        Config { poly: Poly::Exact, features: 3, ..base.clone() },
        base,
    ]
}

/// The state after one token with the value one is its features; read by another it is their product.
fn a_product_of_features_is_the_product_of_both_maps_and_no_feature_is_negative_under_anchors() {
    for c in several() {
        let c = Config {
            qkv: Qkv::new().heads(2).len(1).dim(c.qkv.dim_k).dim_v(1),
            norm_eps: 0.5,
            mode: c.mode.carry(),
            ..c
        };
        let mut all = inputs(&c);
        all.insert("v", HostTensor::f32([1, 2, 1, 1], vec![1.0; 2]));
        let got = c.reference(&all, Precision::F64, Rows::All);
        let (q, k) = (values(&all, "q"), values(&all, "k"));
        let (o, state, norm) = (&got[0].1, &got[1].1, &got[2].1);
        assert_eq!(state, norm);
        for g in 0..2 {
            let row = |x: &[f64]| maps(&c, &all, g, &x[g * c.qkv.dim_k..][..c.qkv.dim_k]);
            let ((qa, qe), (ka, ke)) = (row(&q), row(&k));
            let product = dot(&qa, &ka) * dot(&qe, &ke);
            let want = product / (product + 0.5);
            assert!((o[g] / want - 1.0).abs() < 1e-12, "{}, expected {want}", o[g]);
            let width = c.width();
            let psi = &state[g * width..][..width];
            let (p, f) = (c.poly_width(), c.features);
            for (i, psi) in psi.iter().enumerate() {
                let (r, p, f) = (i / (p * f), i / f % p, i % f);
                let want = ka[p] * ke[r * c.features + f];
                assert!((psi - want).abs() <= 1e-14 * want.abs(), "feature {i}: {psi}, expected {want}");
                assert!(c.poly == Poly::Exact || *psi >= 0.0);
            }
        }
    }
}

fn the_definition_equals_the_masked_quadratic_form_and_chunks_equal_the_definition() {
    for c in every_map() {
        let all = inputs(&c);
        let s = c.qkv;
        let (q, k, v) = (values(&all, "q"), values(&all, "k"), values(&all, "v"));
        let o = &c.reference(&all, Precision::F64, Rows::All)[0].1;
        for head in 0..s.batch * s.heads {
            let (b, g) = (head / s.heads, head % s.heads / s.group());
            let unit = (b * s.kv_heads + g) * s.keys;
            let rows = |x: &[f64], first: usize| -> Vec<_> {
                let rows = x[first * s.dim_k..][..s.keys * s.dim_k].chunks(s.dim_k);
                rows.map(|row| maps(&c, &all, g, row)).collect()
            };
            let (q, k) = (rows(&q, head * s.queries), rows(&k, unit));
            for i in 0..s.queries {
                let score = |j: usize| dot(&q[i].0, &k[j].0) * dot(&q[i].1, &k[j].1);
                let weights: Vec<f64> = (0..=i).map(score).collect();
                let sum: f64 = weights.iter().sum::<f64>() + f64::from(c.norm_eps);
                for e in 0..s.dim_v {
                    let want = weights.iter().enumerate().map(|(j, w)| w * v[(unit + j) * s.dim_v + e]).sum::<f64>();
                    let got = o[(head * s.queries + i) * s.dim_v + e];
                    assert!((got - want / sum).abs() < 1e-10, "{got}, expected {}", want / sum);
                }
            }
        }
        // All of these but one run on a GPU with the table's cases.
        assert_matches(&format!("{c:?}"), &c, &all, &c.cpu(&all).unwrap());
    }
    for c in several() {
        let all = inputs(&c);
        for (backend, run) in backends() {
            assert_matches(&format!("{backend}: {c:?}"), &c, &all, &run(&c, &all));
        }
    }
}

/// What anchors make of the square: not the square itself.
fn products_of_anchor_features_have_the_mean_of_uniform_directions() {
    let c =
        Config { anchors: 200_000, nodes: 1, features: 1, ..Config::new(Qkv::new().heads(1).len(1).dim(16).dim_v(1)) };
    let all = inputs(&c);
    for x in [0.0, 0.5, 1.0f64] {
        // One pair of vectors sees half a percent of noise, all turns of it along the axes less.
        let turn = |i: usize| {
            let mut q = vec![0.0; 16];
            let mut k = q.clone();
            (q[i], k[i], k[(i + 5) % 16]) = (1.0, x, (1.0 - x * x).sqrt());
            dot(&maps(&c, &all, 0, &q).0, &maps(&c, &all, 0, &k).0)
        };
        let got = (0..16).map(turn).sum::<f64>() / 16.0;
        let want = (1.0 + 2.0 * x * x) / 288.0;
        assert!((got / want - 1.0).abs() < 0.01, "at {x}: {got}, expected {want}");
    }
}

/// The two unbiased ones, over draws; and what Nystrom, given many anchors, cannot miss.
fn products_of_drawn_features_have_the_mean_of_the_square() {
    let qkv = Qkv::new().heads(1).len(1).dim(6).dim_v(1);
    let (q, k) = ([0.6, 0.0, 0.8, 0.0, 0.0, 0.0], [0.8, 0.0, 0.0, 0.0, 0.6, 0.0]);
    let want = dot(&q, &k).powi(2);
    let product = |c: &Config| {
        let all = inputs(c);
        dot(&maps(c, &all, 0, &q).0, &maps(c, &all, 0, &k).0)
    };
    let base = Config { nodes: 1, features: 1, ..Config::new(qkv) };
    // The entries of one map are independent; a convolution's are not, but its variance falls as 1 / P all the same.
    for poly in [Poly::Maclaurin, Poly::TensorSketch] {
        let anchors = if poly == Poly::Maclaurin { 200_000 } else { 3000 };
        let got = product(&Config { poly, anchors, ..base.clone() });
        assert!((got - want).abs() < 0.02, "{poly:?}: {got}, expected {want}");
    }
    let got = product(&Config { poly: Poly::Nystrom, anchors: 200, ..base });
    assert!((got - want).abs() < 0.001, "{got}, expected {want}");
}

/// Around s = 0.29 the features' variance allows a test; at larger nodes none could tell.
fn products_of_random_features_have_the_mean_of_the_exponential() {
    let c = Config { nodes: 2, features: 400_000, ..Config::new(Qkv::new().heads(1).len(1).dim(8).dim_v(1)) };
    let all = inputs(&c);
    let (s, w) = quadrature::nodes(1e-3, 2)[0];
    assert!((s - 0.29).abs() < 0.01);
    for x in [0.0, 0.5f64] {
        let mut q = vec![0.0; 8];
        let mut k = q.clone();
        (q[0], k[0], k[3]) = (1.0, x, (1.0 - x * x).sqrt());
        let (q, k) = (maps(&c, &all, 0, &q).1, maps(&c, &all, 0, &k).1);
        let got = dot(&q[..c.features], &k[..c.features]) / w;
        let want = (2.0 * s * x).exp();
        assert!((got / want - 1.0).abs() < 0.02, "at {x}: {got}, expected {want}");
    }
}

/// Rows of a tensor, each changed.
fn change(all: &mut TensorMap, name: &str, change: impl Fn(&mut [f32])) {
    let tensor = all.get(name).unwrap();
    let (mut rows, shape) = (tensor.to_f32(), tensor.shape().clone());
    rows.chunks_exact_mut(*shape.dims().last().unwrap()).for_each(change);
    all.insert(name, HostTensor::f32(shape, rows));
}

fn lengths_of_queries_and_keys_and_a_common_rotation_do_not_matter() {
    for c in several() {
        let all = inputs(&c);
        let mut longer = all.clone();
        change(&mut longer, "q", |row| row.iter_mut().for_each(|x| *x *= 1024.0));
        change(&mut longer, "k", |row| row.iter_mut().for_each(|x| *x *= 0.0078125));
        // A reflection, at the vector (1, 2, .., D).
        let mut turned = all.clone();
        for name in ["q", "k", "anchors", "omega"].into_iter().filter(|name| all.get(name).is_some()) {
            change(&mut turned, name, |row| {
                let (mut along, mut square) = (0.0, 0.0);
                for (i, x) in row.iter().enumerate() {
                    let at = i as f64 + 1.0;
                    along += f64::from(*x) * at;
                    square += at * at;
                }
                for (i, x) in row.iter_mut().enumerate() {
                    *x -= (2.0 * along / square * (i as f64 + 1.0)) as f32;
                }
            });
        }
        for (backend, run) in backends() {
            let o = |all: &TensorMap| run(&c, all).remove("o").unwrap();
            assert_same_bits(&format!("{backend}: powers of two"), &o(&all), &o(&longer));
            let error = tolerance::relative_rms(&o(&turned).to_f64(), &o(&all).to_f64());
            assert!(error < 1e-5, "{backend}: turned, {error:.2e}");
        }
    }
}

fn vectors_of_zeros_give_zeros() {
    let gpu = |poly: Poly| matches!(poly, Poly::Anchor | Poly::Exact | Poly::Laplace);
    for c in every_map() {
        let backends: Vec<_> = backends().into_iter().filter(|(name, _)| *name == "cpu" || gpu(c.poly)).collect();
        let all = inputs(&c);
        for name in ["q", "k"] {
            let mut all = all.clone();
            change(&mut all, name, |row| row.fill(0.0));
            for (backend, run) in &backends {
                let o = run(&c, &all).remove("o").unwrap().to_f32();
                assert!(o.iter().all(|x| *x == 0.0), "{backend}, {:?}: not all zero where {name} is", c.poly);
            }
        }
        // One token among others: its own output is zero, the rest as if its key were none.
        let mut some = all.clone();
        for name in ["q", "k"] {
            let (mut x, shape) = (some.get(name).unwrap().to_f32(), some.get(name).unwrap().shape().clone());
            x[5 * c.qkv.dim_k..6 * c.qkv.dim_k].fill(0.0);
            some.insert(name, HostTensor::f32(shape, x));
        }
        for (backend, run) in &backends {
            let got = run(&c, &some);
            assert_matches(&format!("{backend}, {:?}, a zero token", c.poly), &c, &some, &got);
            assert!(got.get("o").unwrap().to_f32()[5 * c.qkv.dim_v..6 * c.qkv.dim_v].iter().all(|x| *x == 0.0));
        }
    }
}

/// Configurations, whether a carried state is given, and a seed.
fn any_config() -> impl Strategy<Value = (Config, bool, u64)> {
    let heads = (1usize..=2, 1usize..=2, 1usize..=3);
    let sizes = (1usize..=150, 1usize..=40, 1usize..=40);
    let counts = (1usize..=4, 1usize..=12, 1usize..=20);
    let layout = prop::sample::select(vec![Layout::Bhnd, Layout::Bnhd]);
    let segment = prop::option::of(1usize..=60);
    (heads, sizes, counts, layout, segment, any::<[bool; 3]>(), any::<u64>()).prop_map(
        |((batch, kv_heads, group), (len, dim_k, dim_v), counts, layout, segment, [carry, given, exact], seed)| {
            let qkv = Qkv::new()
                .batch(batch)
                .heads(kv_heads * group)
                .len(len)
                .dim(dim_k)
                .dim_v(dim_v)
                .kv_heads(kv_heads)
                .layout(layout);
            let (nodes, anchors, features) = counts;
            let poly = if exact { Poly::Exact } else { Poly::Anchor };
            let qkv = if exact { qkv.dim_k(dim_k.min(12)) } else { qkv };
            (
                Config {
                    nodes,
                    anchors,
                    features,
                    poly,
                    mode: Mode { segment, carry, ..Mode::new() },
                    ..Config::new(qkv)
                },
                carry && given,
                seed,
            )
        },
    )
}

/// Any configurations against the definition, the same ones in every run. Values and states are positive, so that no sum
/// cancels and rounding stays that of the terms.
fn any_shape_matches_the_definition_on_the_cpu() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let settings = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new_with_rng(settings, rng).run(&any_config(), |(c, given, seed)| {
        let positive = |shape: Shape, stream| {
            let values = random::normal(seed, stream, shape.count()).into_iter().map(f32::abs).collect();
            HostTensor::f32(shape, values)
        };
        let mut all = inputs(&c);
        all.insert("v", positive(all.get("v").unwrap().shape().clone(), 2));
        if given {
            // As large as sums of a few tokens are: the exact map has signed features.
            let part = [c.qkv.batch, c.qkv.kv_heads, c.width(), c.qkv.dim_v];
            if c.poly == Poly::Anchor {
                all.insert("state", positive(part.into(), 3));
                all.insert("norm", positive(part[..3].into(), 4));
            }
        }
        let got = c.cpu(&all).unwrap();
        for (name, verdict) in Reference::of(&c, &all, Rows::All).compare(&c, &all, Rows::All, &got) {
            prop_assert!(verdict.ok, "`{}`: {:?}", name, verdict);
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

fn refused_before_anything_runs() {
    let base = Config::new(Qkv::new().heads(4).len(8).dim(16));
    for (config, sentence) in [
        (Config { nodes: 0, ..base.clone() }, "slay: `nodes`: expected 1 to 32, found 0"),
        (Config { nodes: 33, ..base.clone() }, "slay: `nodes`: expected 1 to 32, found 33"),
        (Config { features: 0, ..base.clone() }, "slay: `features`: expected 1 to 1048576, found 0"),
        (Config { poly: Poly::Nystrom, anchors: 257, ..base.clone() }, "slay: `anchors`: expected 1 to 256, found 257"),
        (
            Config { poly: Poly::Nystrom, ..base.clone() },
            "slay: `poly`: expected another map on a GPU (nystrom runs on the cpu backend), found nystrom",
        ),
        (Config { anchors: 0, ..base.clone() }, "slay: `anchors`: expected 1 to 1048576, found 0"),
        (Config { epsilon: 0.0, ..base.clone() }, "slay: `epsilon`: expected a finite number over 0, found 0"),
        (Config { epsilon: f32::NAN, ..base.clone() }, "slay: `epsilon`: expected a finite number over 0, found NaN"),
        (
            Config { norm_eps: -1.0, ..base.clone() },
            "slay: `norm_eps`: expected a finite number of 0 or more, found -1",
        ),
        (
            Config { qkv: base.qkv.keys(9), ..base.clone() },
            "slay: tensor `k`: expected M = N = 8 for the causal form, found M = 9",
        ),
        (
            Config { mode: base.mode.decode().carry(), ..base.clone() },
            "slay: tensor `q`: expected N = 1 to decode, found N = 8",
        ),
        (Config { mode: base.mode.segment(0), ..base.clone() }, "slay: `segment`: expected 1 or more, found 0"),
        (Config { mode: base.mode.non_causal().carry(), ..base.clone() }, "slay: `carry` needs the causal form"),
    ] {
        assert_eq!(config.program(&Caps::portable()).unwrap_err().to_string(), sentence);
    }
}

fn tensors_that_do_not_fit_shapes_or_flags_are_refused_by_name() {
    let refuse = |given: &[(&str, &[usize])], typed: &[(&str, &str)]| {
        let mut flags = Flags::new();
        typed.iter().for_each(|(name, value)| flags.set(name, *value));
        let qkv: [(&str, &[usize]); 3] = [("q", &[1, 4, 8, 16]), ("k", &[1, 2, 8, 16]), ("v", &[1, 2, 8, 16])];
        let shapes: Vec<(String, Shape)> =
            qkv.iter().chain(given).map(|(name, dims)| ((*name).to_owned(), dims.to_vec().into())).collect();
        let (layout, dtype) = (Layout::Bhnd, DType::F32);
        let request = Request { flags: &flags, shapes: &shapes, layout, dtype, carry: false };
        OP.configure(&request).err().unwrap().to_string()
    };
    for (given, typed, sentence) in [
        (
            &[("anchors", &[8usize, 15] as &[usize])] as &[(&str, &[usize])],
            &[] as &[(&str, &str)],
            "slay: tensor `anchors`: expected dim D = 16 as in q, found [8, 15]",
        ),
        (
            &[("anchors", &[8, 16])],
            &[("anchors", "4")],
            "slay: tensor `anchors`: expected 4 as in --anchors, found [8, 16]",
        ),
        (
            &[("anchors", &[8, 16])],
            &[("poly", "exact")],
            "slay: tensor `anchors`: expected none with --poly exact, found [8, 16]",
        ),
        (
            &[("signs", &[2, 8, 16])],
            &[("poly", "tensorsketch")],
            "slay: tensor `signs`: expected none with --poly tensorsketch, found [2, 8, 16]",
        ),
        (
            &[("sketches", &[3, 8, 16])],
            &[("poly", "tensorsketch")],
            "slay: tensor `sketches`: expected two of [P, D], found [3, 8, 16]",
        ),
        (
            &[("signs", &[2, 8, 16])],
            &[("poly", "maclaurin"), ("anchors", "4")],
            "slay: tensor `signs`: expected 4 as in --anchors, found [2, 8, 16]",
        ),
        (
            &[],
            &[("poly", "laplace"), ("anchors", "4")],
            "slay: --anchors: expected none with --poly laplace, which has no anchors",
        ),
        (
            &[("omega", &[2, 4, 16, 16])],
            &[],
            "slay: tensor `omega`: expected G = 2 key heads as in k, found [2, 4, 16, 16]",
        ),
        (&[("omega", &[2, 2, 16, 8])], &[], "slay: tensor `omega`: expected dim D = 16 as in q, found [2, 2, 16, 8]"),
        (
            &[("omega", &[2, 2, 16, 16])],
            &[("nodes", "3")],
            "slay: tensor `omega`: expected 3 as in --nodes, found [2, 2, 16, 16]",
        ),
        (
            &[("omega", &[2, 2, 16, 16])],
            &[("features", "3")],
            "slay: tensor `omega`: expected 3 as in --features, found [2, 2, 16, 16]",
        ),
        (&[("omega", &[33, 2, 16, 16])], &[], "slay: `nodes`: expected 1 to 32, found 33"),
        (
            &[],
            &[("poly", "exact"), ("anchors", "4")],
            "slay: --anchors: expected none with --poly exact, which has no anchors",
        ),
        (&[], &[("epsilon", "0")], "slay: --epsilon: expected a finite number over 0, found 0"),
        (&[], &[("norm-eps", "-1")], "slay: --norm-eps: expected a finite number of 0 or more, found -1"),
        (
            &[],
            &[("decode", "true"), ("segment", "4")],
            "slay: --segment cannot be used with decode, which takes one token",
        ),
    ] {
        assert_eq!(refuse(given, typed), sentence);
    }
}

/// The shape of the paper's figure on time and memory: 537 MB of q, k, v and o. Features are stored for a block at a time.
fn a_long_sequence_takes_little_beside_its_tensors_and_stored_features() {
    let c = Config::new(Qkv::new().heads(8).len(131_072).dim(32));
    let program = c.program(&roomy()).unwrap();
    let tensors = c.qkv.elements().iter().sum::<f64>() * 4.0;
    let bytes = |name: &str| program.workspace().iter().filter(|s| s.name == name).map(|s| s.bytes).sum::<u64>();
    assert!(bytes("features") <= 64 << 20, "{}", bytes("features"));
    assert!(bytes("segment states") as f64 <= 0.12 * tensors, "{} of {tensors}", bytes("segment states"));
    let stored = program.steps().iter().filter(|step| step.kernel.name == "slay_features").count();
    assert!(stored > 3, "{stored} dispatches that store features");
    // Features are 40 floats of a vector of 32. Those of keys are stored and loaded in both passes, of queries in
    // one. v is read twice and o written once; states of segments, as many as fill the device in each block, are less
    // than 15 % more, and weights less than 10 %.
    let vectors = 8.0 * 131_072.0 * 4.0;
    let least = vectors * (3.0 * (32.0 + 2.0 * 40.0) + 3.0 * 32.0);
    assert!((least..1.25 * least).contains(&program.cost().bytes()), "{least}, {:?}", program.cost());
}

/// Runs a program with outputs and workspace poisoned.
fn planned(ctx: &Context, program: Program, inputs: &TensorMap) -> TensorMap {
    let prepared = Prepared::of(ctx, Plan::new(ctx, program).unwrap(), inputs, true).unwrap();
    prepared.run(ctx, &mut |_| {}).unwrap();
    prepared.outputs(ctx).unwrap()
}

/// Few bytes for features: blocks of segments of all heads, blocks of some heads, of keys and of queries. The blocks
/// change no bit.
fn blocks_of_stored_features_change_no_bit() {
    let Some(ctx) = support::context() else { return };
    let base =
        Config { nodes: 1, anchors: 3, features: 6, ..Config::new(Qkv::new().batch(2).heads(4).kv_heads(2).dim(12)) };
    let causal = Config { qkv: base.qkv.len(150), mode: base.mode.segment(16), ..base.clone() };
    let forms = [
        causal.clone(),
        Config { mode: causal.mode.carry(), poly: Poly::Exact, ..causal.clone() },
        Config { qkv: base.qkv.queries(70).keys(150), mode: causal.mode.non_causal(), ..base.clone() },
        Config { qkv: base.qkv.len(150), ..base.clone() },
        Config { qkv: causal.qkv.layout(Layout::Bnhd), poly: Poly::TensorSketch, norm_eps: 100.0, ..causal },
    ];
    for c in forms {
        let mut all = inputs(&c);
        if c.mode.carry {
            let state = [2, 2, c.width(), 12];
            all.insert("state", HostTensor::f32(state, random::normal(3, 5, state.iter().product())));
            all.insert("norm", HostTensor::f32(&state[..3], vec![50.0; state[..3].iter().product()]));
        }
        let whole = planned(ctx, c.program(ctx.caps()).unwrap(), &all);
        assert_matches(&format!("{c:?}"), &c, &all, &whole);
        let mut counts = Vec::new();
        for bytes in [3000, 9000, 30_000, 90_000] {
            let few = Caps { feature_bytes: bytes, ..ctx.caps().clone() };
            let program = c.program(&few).unwrap();
            counts.push(program.steps().iter().filter(|step| step.kernel.name == "slay_features").count());
            if bytes == 9000 {
                let (stated, [read, written]) = moved_by(ctx, program.clone(), &all);
                assert_eq!((read, written), (stated.bytes_read, stated.bytes_written), "{c:?}");
            }
            let got = planned(ctx, program, &all);
            if c.mode.segment.is_some() {
                for (name, want) in whole.iter() {
                    assert_same_bits(&format!("{bytes}, {c:?}"), got.get(name).unwrap(), want);
                }
            }
            assert_matches(&format!("{bytes}, {c:?}"), &c, &all, &got);
        }
        assert!(counts.is_sorted_by(|a, b| a >= b) && counts[0] > 4, "{counts:?}, {c:?}");
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(a_product_of_features_is_the_product_of_both_maps_and_no_feature_is_negative_under_anchors),
        test(the_definition_equals_the_masked_quadratic_form_and_chunks_equal_the_definition),
        test(products_of_anchor_features_have_the_mean_of_uniform_directions),
        test(products_of_drawn_features_have_the_mean_of_the_square),
        test(products_of_random_features_have_the_mean_of_the_exponential),
        test(lengths_of_queries_and_keys_and_a_common_rotation_do_not_matter),
        test(vectors_of_zeros_give_zeros),
        test(any_shape_matches_the_definition_on_the_cpu),
        test(refused_before_anything_runs),
        test(tensors_that_do_not_fit_shapes_or_flags_are_refused_by_name),
        test(a_long_sequence_takes_little_beside_its_tensors_and_stored_features),
        test(blocks_of_stored_features_change_no_bit),
    ]
}
