//! Attention with the Yat kernel: what is particular to it.

use libtest_mimic::Trial;
use proptest::prelude::*;
use subquad::gpu::Caps;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::softmax;
use subquad::ops::yat::{Config, Kernel, Norm};
use subquad::tensor::{HostTensor, Layout, TensorMap};
use subquad::verify::tolerance;

use crate::support::{assert_matches, backends, inputs, roomy, test};

/// Both kernels with both norms.
fn all_four(base: &Config) -> Vec<Config> {
    let norms = |kernel| [Norm::Kernel, Norm::Softmax].map(|norm| Config { kernel, norm, ..base.clone() });
    [Kernel::Spherical, Kernel::Euclidean].into_iter().flat_map(norms).collect()
}

/// Shapes of the two forms on a GPU: many queries, and few against many keys.
fn both_forms() -> [Config; 2] {
    let many = Config::new(Qkv::new().heads(2).len(80).dim(16).dim_v(6).kv_heads(1));
    let few = Config { causal: false, ..Config::new(Qkv::new().heads(2).len(3).dim(16).dim_v(6).keys(300)) };
    [many, few]
}

fn changed(all: &TensorMap, name: &str, change: impl Fn(&mut [f32])) -> TensorMap {
    let tensor = all.get(name).unwrap();
    let mut values = tensor.to_f32();
    change(&mut values);
    let mut all = all.clone();
    all.insert(name, HostTensor::f32(tensor.shape().clone(), values));
    all
}

/// A weight of 1 / epsilon, and one of 0.36 / (2.001 - 1.2), or of 0.36 / (0.8 + 0.001).
fn a_key_equal_to_the_query_weighs_one_over_epsilon() {
    for kernel in [Kernel::Spherical, Kernel::Euclidean] {
        let c = Config { kernel, causal: false, ..Config::new(Qkv::new().heads(1).len(1).dim(2).keys(2)) };
        let mut all = TensorMap::new();
        all.insert("q", HostTensor::f32([1, 1, 1, 2], vec![1.0, 0.0]));
        all.insert("k", HostTensor::f32([1, 1, 2, 2], vec![1.0, 0.0, 0.6, 0.8]));
        all.insert("v", HostTensor::f32([1, 1, 2, 2], vec![1.0, 0.0, 0.0, 1.0]));
        let (first, second) = (1000.0, 0.36 / 0.801);
        let want = [first, second].map(|x| x / (first + second + 1e-6));
        for (backend, run) in backends() {
            let got = run(&c, &all).get("o").unwrap().to_f64();
            for (got, want) in got.iter().zip(want) {
                assert!((got / want - 1.0).abs() < 1e-6, "{backend}, {kernel:?}: {got}, expected {want}");
            }
        }
    }
}

/// Where keys are queries, or close to them, a denominator is a rounded product less than two squares. The formula errs
/// there by a unit of rounding over epsilon; the kernels must not.
fn keys_near_the_query_are_told_apart() {
    for base in both_forms() {
        for step in [0.0, 1e-4, 1e-2, 0.2] {
            let random = inputs(&base.qkv);
            let (q, heads) = (random.get("q").unwrap().to_f32(), base.qkv.heads / base.qkv.kv_heads);
            let all = changed(&random, "k", |k| {
                // Keys of a head are its first query head's queries, over and over.
                let (of_head, dim) = (base.qkv.queries * base.qkv.dim_k, base.qkv.dim_k);
                let keys = base.qkv.keys * dim;
                for (g, head) in k.chunks_exact_mut(keys).enumerate() {
                    let q = &q[g * heads * of_head..][..of_head];
                    head.iter_mut().enumerate().for_each(|(i, x)| *x = q[i % of_head] + step * *x);
                }
            });
            for c in all_four(&base) {
                let exact = &c.reference(&all, Precision::F64, Rows::All)[0].1;
                for (backend, run) in backends() {
                    let got = run(&c, &all);
                    assert_matches(&format!("{backend}, {step}: {c:?}"), &c, &all, &got);
                    let error = tolerance::relative_rms(&got.get("o").unwrap().to_f64(), exact);
                    // Scores of 1 / epsilon in an exponent are another matter.
                    assert!(error < 2e-6 || c.norm == Norm::Softmax, "{backend}, {step}: {error:.2e} of {c:?}");
                }
            }
        }
    }
}

fn zero_vectors_give_zeros() {
    for base in both_forms() {
        let dim = base.qkv.dim_k;
        let random = inputs(&base.qkv);
        // One query and one key; then all queries.
        let some = changed(&random, "q", |q| q[..dim].fill(0.0));
        let some = changed(&some, "k", |k| k[2 * dim..3 * dim].fill(0.0));
        let none = changed(&random, "q", |q| q.fill(0.0));
        for c in all_four(&base).into_iter().flat_map(|c| [Config { norm_eps: 0.0, ..c.clone() }, c]) {
            for (backend, run) in backends() {
                let got = run(&c, &some);
                assert_matches(&format!("{backend}: {c:?}"), &c, &some, &got);
                if c.norm == Norm::Kernel {
                    let o = got.get("o").unwrap().to_f32();
                    assert!(o[..c.qkv.dim_v].iter().all(|x| *x == 0.0), "{backend}: {c:?}");
                    assert!(o[c.qkv.dim_v..].iter().all(|x| *x != 0.0), "{backend}: {c:?}");
                    let o = run(&c, &none).get("o").unwrap().to_f32();
                    assert!(o.iter().all(|x| *x == 0.0), "{backend}: {c:?}");
                }
            }
        }
    }
}

fn lengths_do_not_matter_on_the_sphere() {
    for base in both_forms() {
        let all = inputs(&base.qkv);
        for norm in [Norm::Kernel, Norm::Softmax] {
            let c = Config { norm, ..base.clone() };
            for (of_q, of_k) in [(3.7, 0.02), (1e-8, 1e-9), (1e6, 2e9)] {
                let scaled = changed(&all, "q", |q| q.iter_mut().for_each(|x| *x *= of_q));
                let scaled = changed(&scaled, "k", |k| k.iter_mut().for_each(|x| *x *= of_k));
                for (backend, run) in backends() {
                    let what = format!("{backend}, {of_q} and {of_k}: {c:?}");
                    assert_matches(&what, &c, &all, &run(&c, &scaled));
                }
            }
        }
    }
}

fn queries_that_see_no_key_give_zeros() {
    for qkv in
        [Qkv::new().heads(2).len(110).dim(8).dim_v(6).keys(20), Qkv::new().heads(1).len(8).dim(8).dim_v(6).keys(3)]
    {
        for c in all_four(&Config { norm_eps: 0.0, ..Config::new(qkv) }) {
            let unseen = (qkv.queries - qkv.keys) * qkv.dim_v;
            for (backend, run) in backends() {
                let o = run(&c, &inputs(&qkv)).get("o").unwrap().to_f32();
                for head in o.chunks_exact(qkv.queries * qkv.dim_v) {
                    assert!(head[..unseen].iter().all(|x| *x == 0.0), "{backend}: {c:?}");
                    assert!(head[unseen..].iter().any(|x| *x != 0.0), "{backend}: {c:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    fn any_shape_matches_the_definition_on_the_cpu(
        (batch, kv_heads, group) in (1usize..=2, 1usize..=3, 1usize..=4),
        (queries, keys) in (1usize..=300, 1usize..=600),
        (dim_k, dim_v) in (1usize..=80, 1usize..=80),
        (bnhd, causal) in any::<(bool, bool)>(),
        which in 0usize..4,
    ) {
        let layout = if bnhd { Layout::Bnhd } else { Layout::Bhnd };
        let qkv = Qkv::new().batch(batch).heads(kv_heads * group).len(queries).dim(dim_k).dim_v(dim_v).kv_heads(kv_heads).keys(keys).layout(layout);
        let c = all_four(&Config { causal, ..Config::new(qkv) }).swap_remove(which);
        let all = inputs(&qkv);
        assert_matches("cpu", &c, &all, &c.cpu(&all).unwrap());
    }
}

/// Two products as in softmax, and its two forms; exponentials only where there is a softmax.
fn work_is_that_of_softmax_without_exponentials() {
    for qkv in [Qkv::new().heads(8).len(100_000).dim(64), Qkv::new().heads(8).len(1).dim(64).keys(100_000)] {
        let soft = softmax::Config::new(qkv);
        let theirs = soft.program(&roomy()).unwrap();
        for c in all_four(&Config::new(qkv)) {
            let ours = c.program(&roomy()).unwrap();
            assert_eq!(ours.steps().len(), theirs.steps().len());
            assert_eq!(ours.workspace_bytes(), theirs.workspace_bytes());
            assert_eq!((ours.cost().flops, ours.cost().bytes()), (theirs.cost().flops, theirs.cost().bytes()));
            let weighing = ours.steps()[0].cost.exps;
            if c.norm == Norm::Softmax {
                assert_eq!((c.cost(), weighing), (soft.cost(), theirs.steps()[0].cost.exps));
            } else {
                assert_eq!((c.cost().exps, weighing), (0.0, 0.0));
            }
        }
    }
}

fn refused_before_anything_runs() {
    let base = Config::new(Qkv::new().heads(4).len(8).dim(16));
    for (config, sentence) in [
        (Config { epsilon: 0.0, ..base.clone() }, "yat: `epsilon`: expected a finite number above 0, found 0"),
        (Config { epsilon: f32::NAN, ..base.clone() }, "yat: `epsilon`: expected a finite number above 0, found NaN"),
        (
            Config { norm_eps: -1e-6, ..base.clone() },
            "yat: `norm_eps`: expected a finite number of 0 or more, found -0.000001",
        ),
        (
            Config { qkv: base.qkv.kv_heads(3), ..base.clone() },
            "yat: tensor `k`: expected key heads that divide the 4 query heads, found 3 key heads",
        ),
    ] {
        assert_eq!(config.program(&Caps::portable()).unwrap_err().to_string(), sentence);
        assert_eq!(config.cpu(&inputs(&base.qkv)).unwrap_err().to_string(), sentence);
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(a_key_equal_to_the_query_weighs_one_over_epsilon),
        test(keys_near_the_query_are_told_apart),
        test(zero_vectors_give_zeros),
        test(lengths_do_not_matter_on_the_sphere),
        test(queries_that_see_no_key_give_zeros),
        test(any_shape_matches_the_definition_on_the_cpu),
        test(work_is_that_of_softmax_without_exponentials),
        test(refused_before_anything_runs),
    ]
}
