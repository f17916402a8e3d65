//! Exact softmax attention: what is particular to it.

use libtest_mimic::Trial;
use proptest::prelude::*;
use subquad::gpu::Caps;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::softmax::Config;
use subquad::tensor::{DType, HostTensor, Layout, TensorMap};
use subquad::verify::tolerance;

use crate::support::{assert_matches, backends, inputs, roomy, test, tokens};

fn queries_that_see_no_key_give_zeros() {
    // 90 queries more than keys: the first 90 see nothing, in whole tiles and in a tile that others share.
    let many = Config::new(Qkv::new().heads(2).len(110).dim(8).dim_v(6).keys(20));
    // The form that splits keys.
    let few = Config::new(Qkv::new().heads(1).len(8).dim(8).dim_v(6).keys(3));
    for c in [many, few] {
        let unseen = c.qkv.queries - c.qkv.keys;
        for (backend, run) in backends() {
            let got = run(&c, &inputs(&c.qkv));
            let (o, dim) = (got.get("o").unwrap().to_f32(), c.qkv.dim_v);
            for head in o.chunks_exact(c.qkv.queries * dim) {
                assert!(head[..unseen * dim].iter().all(|x| *x == 0.0), "{backend}: {c:?}");
                assert!(head[unseen * dim..].iter().any(|x| *x != 0.0), "{backend}: {c:?}");
            }
        }
    }
}

/// Scores of +100 and -100 and what lies between: weights from e^-200 to 1 without overflow, over several tiles, with the
/// largest first, last, and in between.
fn scores_of_a_hundred_do_not_overflow() {
    for (queries, keys) in [(70, 300), (2, 300)] {
        let c = Config {
            causal: false,
            scale: Some(1.0),
            ..Config::new(Qkv::new().heads(1).len(queries).dim(2).dim_v(5).keys(keys))
        };
        let mut all = inputs(&c.qkv);
        let wave = |j: usize| 10.0 * (j as f32 * 0.37).sin();
        let k: Vec<f32> = (0..keys).flat_map(|j| [wave(j), 10.0 - 20.0 * j as f32 / (keys - 1) as f32]).collect();
        let q: Vec<f32> = (0..queries)
            .flat_map(|i| match i % 4 {
                0 => [10.0, 0.0],
                1 => [-10.0, 0.0],
                2 => [0.0, 10.0],
                _ => [0.0, -10.0],
            })
            .collect();
        all.insert("k", HostTensor::f32([1, 1, keys, 2], k));
        all.insert("q", HostTensor::f32([1, 1, queries, 2], q));
        for (backend, run) in backends() {
            assert_matches(backend, &c, &all, &run(&c, &all));
        }
    }
}

/// Queries that come in pieces, each with the cache of all keys so far, give what they give together.
fn pieces_with_a_growing_cache_equal_the_whole() {
    let whole =
        Config { window: Some(60), ..Config::new(Qkv::new().batch(2).heads(4).len(150).dim(20).dim_v(12).kv_heads(2)) };
    let all = inputs(&whole.qkv);
    let exact = whole.reference(&all, Precision::F64, Rows::All);
    let exact = HostTensor::f32([2, 4, 150, 12], exact[0].1.iter().map(|x| *x as f32).collect::<Vec<_>>());
    for (backend, run) in backends() {
        for cut in [0..1, 1..37, 37..100, 100..149, 149..150] {
            let c = Config { qkv: whole.qkv.queries(cut.len()).keys(cut.end), ..whole.clone() };
            let mut piece = TensorMap::new();
            piece.insert("q", tokens(all.get("q").unwrap(), cut.clone()));
            piece.insert("k", tokens(all.get("k").unwrap(), 0..cut.end));
            piece.insert("v", tokens(all.get("v").unwrap(), 0..cut.end));
            let got = run(&c, &piece);
            let want = tokens(&exact, cut.clone());
            let error = tolerance::relative_rms(&got.get("o").unwrap().to_f64(), &want.to_f64());
            assert!(error < 1e-6, "{backend}, queries {cut:?}: {error:.2e}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    fn any_shape_matches_the_definition_on_the_cpu(
        (batch, kv_heads, group) in (1usize..=2, 1usize..=3, 1usize..=4),
        (queries, keys) in (1usize..=300, 1usize..=600),
        (dim_k, dim_v) in (1usize..=80, 1usize..=80),
        window in prop::option::of(1usize..=400),
        bnhd in any::<bool>(),
        causal in any::<bool>(),
    ) {
        let layout = if bnhd { Layout::Bnhd } else { Layout::Bhnd };
        let qkv = Qkv::new().batch(batch).heads(kv_heads * group).len(queries).dim(dim_k).dim_v(dim_v).kv_heads(kv_heads).keys(keys).layout(layout);
        let c = Config { causal, window: window.filter(|_| causal), ..Config::new(qkv) };
        let all = inputs(&qkv);
        assert_matches("cpu", &c, &all, &c.cpu(&all).unwrap());
    }

    fn work_is_that_of_the_pairs_the_mask_lets_through(
        queries in 1usize..200,
        keys in 1usize..200,
        window in prop::option::of(1usize..=250),
    ) {
        let c = Config { window, ..Config::new(Qkv::new().heads(1).len(queries).dim(1).keys(keys)) };
        let seen = |i: usize, j: usize| {
            j + queries <= i + keys && window.is_none_or(|w| i + keys < j + queries + w)
        };
        let pairs = (0..queries).map(|i| (0..keys).filter(|&j| seen(i, j)).count()).sum::<usize>();
        prop_assert_eq!(c.cost().flops, 4.0 * pairs as f64);
    }
}

/// Sizes are pure: shapes that no machine here could hold.
fn work_and_workspace_of_large_shapes() {
    let million = Config::new(Qkv::new().heads(8).len(1_000_000).dim(64));
    let program = |c: &Config| c.program(&roomy()).unwrap();
    let causal = program(&million);
    assert_eq!((causal.steps().len(), causal.workspace_bytes()), (1, 0), "no workspace");
    let open = program(&Config { causal: false, ..million.clone() });
    let ratio = causal.cost().flops / open.cost().flops;
    assert!((0.5..0.501).contains(&ratio), "tiles above the diagonal are skipped: {ratio}");
    // A window's cost is that of N x W, but for the tiles at its two ends.
    for window in [256, 4096] {
        let c = Config { window: Some(window), ..million.clone() };
        let (done, needed) = (program(&c).cost(), c.cost());
        let bound = (window + 64 + 2 * 32) as f64 / window as f64;
        assert!(done.flops <= bound * needed.flops * 1.01, "{window}: {} of {}", done.flops, needed.flops);
    }
    // Heads that share a key head share its keys in one workgroup: a block of rows reads them once.
    let shared = program(&Config { qkv: million.qkv.kv_heads(2), ..million.clone() });
    assert!(shared.cost().bytes_read < 1.01 * causal.cost().bytes_read);
    let rows = |p: &subquad::gpu::Program| p.steps()[0].groups as f64;
    assert_eq!(rows(&shared), rows(&causal), "as many blocks of 64 rows");
    // One query against a long cache: keys and values once, and a small share of that in partial outputs.
    let decode = Config::new(Qkv::new().heads(32).len(1).dim(128).kv_heads(8).keys(131_072));
    let program = program(&decode);
    assert_eq!(program.steps().len(), 2);
    let extra = program.cost().bytes() / decode.cost().bytes();
    assert!(extra < 1.1, "{extra}");
    // A maximum, a sum and 128 outputs per query head and split; the splits of the eight key heads fill the device.
    assert_eq!(program.workspace_bytes(), 32 * (roomy().full_groups / 8) * (128 + 4) * 4);
}

/// Keys are split where blocks of queries are mostly empty or leave the machine idle, and the partial outputs fit.
fn keys_are_split_where_that_pays() {
    let steps = |qkv: Qkv| Config::new(qkv).program(&roomy()).unwrap().steps().len();
    assert_eq!(steps(Qkv::new().heads(8).len(1).dim(64).keys(100_000)), 2, "one token");
    assert_eq!(steps(Qkv::new().heads(8).len(5).dim(64).kv_heads(1).keys(100_000)), 2, "40 rows of one key head");
    assert_eq!(steps(Qkv::new().heads(1).len(200).dim(64).keys(100_000)), 2, "200 queries of one head");
    assert_eq!(steps(Qkv::new().heads(8).len(2048).dim(64)), 1, "as many queries as keys");
    assert_eq!(steps(Qkv::new().batch(8).heads(64).len(64).dim(64).keys(4096)), 1, "heads that keep the machine busy");
    // 277 MB of partial outputs pass a binding; the tiled form needs none.
    let many = Qkv::new().batch(512).heads(128).len(8).dim(128).dtype(DType::F16);
    let program = Config::new(many).program(&Caps { f16: true, ..Caps::portable() }).unwrap();
    assert_eq!(program.workspace_bytes(), 0);
}

fn refused_before_anything_runs() {
    let base = Config::new(Qkv::new().heads(4).len(8).dim(16));
    for (config, sentence) in [
        (Config { window: Some(0), ..base.clone() }, "softmax: `window`: expected 1 or more, found 0"),
        (Config { window: Some(3), causal: false, ..base.clone() }, "softmax: `window` needs the causal form"),
        (
            Config { scale: Some(f32::INFINITY), ..base.clone() },
            "softmax: `scale`: expected a finite number, found inf",
        ),
        (
            Config { qkv: base.qkv.kv_heads(3), ..base.clone() },
            "softmax: tensor `k`: expected key heads that divide the 4 query heads, found 3 key heads",
        ),
        (
            Config { qkv: base.qkv.keys(1 << 31), ..base.clone() },
            "softmax: tensor `k` (elements) needs 137438953472, the limit of this device is 4294967295",
        ),
    ] {
        assert_eq!(config.program(&Caps::portable()).unwrap_err().to_string(), sentence);
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(queries_that_see_no_key_give_zeros),
        test(scores_of_a_hundred_do_not_overflow),
        test(pieces_with_a_growing_cache_equal_the_whole),
        test(any_shape_matches_the_definition_on_the_cpu),
        test(work_is_that_of_the_pairs_the_mask_lets_through),
        test(work_and_workspace_of_large_shapes),
        test(keys_are_split_where_that_pays),
        test(refused_before_anything_runs),
    ]
}
