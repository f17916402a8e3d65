//! Exact softmax attention: what is particular to it.

use libtest_mimic::Trial;
use proptest::prelude::*;
use subquad::catalog::random;
use subquad::gpu::Caps;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::softmax::{Align, Config, Pairs};
use subquad::tensor::{DType, HostTensor, Layout, TensorMap, Values};
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

/// Attention over the first keys and over the others, each with the logarithms of its sums, gives that over all keys.
fn outputs_over_parts_of_the_keys_merge_by_their_logarithms() {
    let (queries, keys, cut) = (40, 300, 170);
    for dtype in [DType::F32, DType::F16] {
        let whole = Config {
            lse: true,
            softcap: Some(2.0),
            ..Config::new(
                Qkv::new().batch(2).heads(4).len(queries).dim(20).dim_v(12).kv_heads(2).keys(keys).dtype(dtype),
            )
        };
        let all = inputs(&whole.qkv);
        let part = |range: std::ops::Range<usize>| {
            let mut part = all.clone();
            for name in ["k", "v"] {
                part.insert(name, tokens(all.get(name).unwrap(), range.clone()).cast(dtype));
            }
            part
        };
        // Every query sees all of the first keys; the last queries and keys are aligned as before.
        let first = Config { causal: false, qkv: whole.qkv.keys(cut), ..whole.clone() };
        let second = Config { qkv: whole.qkv.keys(keys - cut), ..whole.clone() };
        for (backend, run) in crate::support::backends_for(dtype) {
            let [a, b, want] = [(&first, part(0..cut)), (&second, part(cut..keys)), (&whole, all.clone())]
                .map(|(config, tensors)| run(config, &tensors));
            let [a, b, want] = [a, b, want].map(|outputs| ["o", "lse"].map(|name| outputs.get(name).unwrap().to_f64()));
            let dim = whole.qkv.dim_v;
            let (mut o, mut lse) = (Vec::new(), Vec::new());
            for (row, (x, y)) in a[1].iter().zip(&b[1]).enumerate() {
                let top = x.max(*y);
                let log = top + ((x - top).exp() + (y - top).exp()).ln();
                lse.push(log);
                let of = |part: &Vec<f64>, own: f64, e: usize| part[row * dim + e] * (own - log).exp();
                o.extend((0..dim).map(|e| of(&a[0], *x, e) + of(&b[0], *y, e)));
            }
            let bound = if dtype == DType::F16 { 1e-3 } else { 1e-6 };
            let errors = [tolerance::relative_rms(&o, &want[0]), tolerance::relative_rms(&lse, &want[1])];
            assert!(errors[0] < bound && errors[1] < 1e-6, "{backend} {dtype}: {errors:.2?}");
        }
    }
}

/// A sink is a key whose value is zero.
fn a_sink_is_a_key_without_a_value() {
    for queries in [70, 3] {
        let c = Config {
            causal: false,
            sink: true,
            lse: true,
            scale: Some(1.0),
            ..Config::new(Qkv::new().heads(2).len(queries).dim(8).dim_v(6).keys(90))
        };
        let mut all = inputs(&c.qkv);
        let sinks = [0.7f32, -1.5];
        all.insert("sink", HostTensor::f32([2], sinks.to_vec()));
        // The last key has one dimension to itself.
        let longer = Config { sink: false, qkv: c.qkv.keys(91).dim_k(9), ..c.clone() };
        let wider = |name: &str, last: &dyn Fn(usize) -> f32| {
            let tensor = all.get(name).unwrap();
            let [_, heads, len, dim] = tensor.shape().dims().try_into().unwrap();
            let values = tensor.to_f32();
            let rows = values.chunks_exact(dim).enumerate();
            let values =
                rows.flat_map(|(row, x)| x.iter().copied().chain([last(row / len)]).collect::<Vec<_>>()).collect();
            HostTensor::f32([1, heads, len, dim + 1], values)
        };
        let with_row = |tensor: &HostTensor, row: &dyn Fn(usize) -> Vec<f32>| {
            let [_, heads, len, dim] = tensor.shape().dims().try_into().unwrap();
            let values = tensor.to_f32();
            let values = values.chunks_exact(len * dim).enumerate();
            let values = values.flat_map(|(head, x)| [x.to_vec(), row(head)].concat()).collect();
            HostTensor::f32([1, heads, len + 1, dim], values)
        };
        let mut more = TensorMap::new();
        more.insert("q", wider("q", &|_| 1.0));
        more.insert("k", with_row(&wider("k", &|_| 0.0), &|head| [vec![0.0; 8], vec![sinks[head]]].concat()));
        more.insert("v", with_row(all.get("v").unwrap(), &|_| vec![0.0; 6]));
        for (backend, run) in backends() {
            let (got, want) = (run(&c, &all), run(&longer, &more));
            for name in ["o", "lse"] {
                let [got, want] = [&got, &want].map(|outputs| outputs.get(name).unwrap().to_f64());
                let error = tolerance::relative_rms(&got, &want);
                assert!(error < 1e-6, "{backend}, {queries} queries: {name} {error:.2e}");
            }
        }
    }
}

/// With a single key the logarithm of the sum is the score itself.
fn capped_scores_are_right_over_the_whole_range() {
    let count = 3000;
    let scores: Vec<f32> =
        (0..count).map(|i| (i as f32 / 100.0 - 14.0).exp2() * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let c = Config {
        softcap: Some(1.0),
        scale: Some(1.0),
        lse: true,
        ..Config::new(Qkv::new().heads(count).len(1).dim(1))
    };
    let mut all = inputs(&c.qkv);
    all.insert("q", HostTensor::f32([1, count, 1, 1], scores.clone()));
    all.insert("k", HostTensor::f32([1, count, 1, 1], vec![1.0; count]));
    for (backend, run) in backends() {
        let got = run(&c, &all).get("lse").unwrap().to_f64();
        for (x, got) in scores.iter().zip(got) {
            let want = f64::from(*x).tanh();
            assert!((got - want).abs() <= 3e-7 * want.abs(), "{backend}: tanh {x} = {want}, found {got}");
        }
    }
}

/// Rows of which a bias hides all pairs, a mask does, or nothing is left by both.
fn rows_that_see_nothing_give_zeros_and_the_logarithm_of_nothing() {
    for queries in [70, 3] {
        let c = Config {
            causal: false,
            bias: Some(Pairs::SHARED),
            mask: Some(Pairs::SHARED),
            lse: true,
            ..Config::new(Qkv::new().heads(2).len(queries).dim(8).keys(90))
        };
        let mut all = inputs(&c.qkv);
        let hidden = |i: usize, j: usize| [i == 0, i == 2 && j < 40];
        let pairs = || (0..queries).flat_map(|i| (0..90).map(move |j| (i, j)));
        let bias = pairs().map(|(i, j)| if hidden(i, j)[0] || (i == 2 && j >= 40) { f32::NEG_INFINITY } else { 0.5 });
        let mask = pairs().map(|(i, j)| u8::from(!(i == 1 || hidden(i, j)[1])));
        all.insert("bias", HostTensor::f32([1, 1, queries, 90], bias.collect()));
        all.insert("mask", HostTensor::new([1, 1, queries, 90], Values::U8(mask.collect())));
        let sunk = Config { sink: true, ..c.clone() };
        all.insert("sink", HostTensor::f32([2], vec![0.25, -3.0]));
        for (backend, run) in backends() {
            let (got, with_sink) = (run(&c, &all), run(&sunk, &all));
            for head in 0..2 {
                let row = |outputs: &TensorMap, name: &str, i: usize, dim: usize| {
                    let at = (head * queries + i) * dim;
                    outputs.get(name).unwrap().to_f32()[at..at + dim].to_vec()
                };
                for i in 0..queries {
                    let empty = i < 3;
                    assert_eq!(row(&got, "o", i, 8).iter().all(|x| *x == 0.0), empty, "{backend} {i}");
                    assert_eq!(row(&got, "lse", i, 1)[0] == f32::NEG_INFINITY, empty, "{backend} {i}");
                    assert_eq!(row(&with_sink, "o", i, 8).iter().all(|x| *x == 0.0), empty, "{backend} {i}");
                    let from_sink = row(&with_sink, "lse", i, 1)[0] - [0.25f32, -3.0][head];
                    assert_eq!(from_sink.abs() < 1e-6, empty, "{backend} {i}");
                }
            }
        }
    }
}

/// A device has eight bindings. What needs more runs as split-K, whatever its shape.
fn no_dispatch_has_more_than_eight_buffers() {
    let every = Config {
        lengths: true,
        bias: Some(Pairs::SHARED),
        mask: Some(Pairs::SHARED),
        sink: true,
        lse: true,
        ..Config::new(Qkv::new().heads(8).len(2048).dim(64))
    };
    let steps =
        |c: &Config| c.program(&roomy()).unwrap().steps().iter().map(|step| step.operands.len()).collect::<Vec<_>>();
    assert_eq!(steps(&every), [7, 4]);
    assert_eq!(steps(&Config { lengths: false, ..every }), [8]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    fn any_shape_matches_the_definition_on_the_cpu(
        (batch, kv_heads, group) in (1usize..=2, 1usize..=3, 1usize..=4),
        (queries, keys) in (1usize..=300, 1usize..=600),
        (dim_k, dim_v) in (1usize..=80, 1usize..=80),
        window in prop::option::of(1usize..=400),
        (bnhd, causal, start) in (any::<bool>(), any::<bool>(), any::<bool>()),
        (bias, mask, sink, lse) in (prop::option::of(any::<(bool, bool)>()), prop::option::of(any::<(bool, bool)>()), any::<bool>(), any::<bool>()),
        softcap in prop::option::of(0.5f32..30.0),
    ) {
        let layout = if bnhd { Layout::Bnhd } else { Layout::Bhnd };
        let qkv = Qkv::new().batch(batch).heads(kv_heads * group).len(queries).dim(dim_k).dim_v(dim_v).kv_heads(kv_heads).keys(keys).layout(layout);
        let pairs = |given: Option<(bool, bool)>| given.map(|(batch, heads)| Pairs { batch, heads });
        let c = Config {
            causal,
            align: if start && causal { Align::Start } else { Align::End },
            window: window.filter(|_| causal),
            softcap,
            bias: pairs(bias),
            mask: pairs(mask),
            sink,
            lse,
            ..Config::new(qkv)
        };
        let mut all = inputs(&qkv);
        for (name, pairs, least) in [("bias", c.bias, 1.3), ("mask", c.mask, 0.5)] {
            let Some(pairs) = pairs else { continue };
            let shape = pairs.shape(&qkv);
            let values = random::normal(5, least as u64, shape.count());
            let hidden = if name == "bias" { f32::NEG_INFINITY } else { 0.0 };
            let values = values.into_iter().map(|x| if x > least { hidden } else { x }).collect();
            let tensor = HostTensor::f32(shape, values);
            all.insert(name, if name == "mask" { tensor.cast(DType::U8) } else { tensor });
        }
        if sink {
            all.insert("sink", HostTensor::f32([qkv.heads], random::normal(6, 0, qkv.heads)));
        }
        assert_matches("cpu", &c, &all, &c.cpu(&all).unwrap());
    }

    fn work_is_that_of_the_pairs_the_mask_lets_through(
        queries in 1usize..200,
        keys in 1usize..200,
        window in prop::option::of(1usize..=250),
        start in any::<bool>(),
    ) {
        let align = if start { Align::Start } else { Align::End };
        let c = Config { window, align, ..Config::new(Qkv::new().heads(1).len(queries).dim(1).keys(keys)) };
        let seen = |i: usize, j: usize| {
            let (own, j) = (if start { i + queries } else { i + keys }, j + queries);
            j <= own && window.is_none_or(|w| own < j + w)
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
        (
            Config { softcap: Some(0.0), ..base.clone() },
            "softmax: `softcap`: expected a finite number above 0, found 0",
        ),
        (
            Config { align: Align::Start, causal: false, ..base.clone() },
            "softmax: `align` start needs the causal form: without it every query sees every key",
        ),
        (
            Config { sequences: Some(0), ..base.clone() },
            "softmax: tensor `cu_seqlens`: expected [S+1], the borders of one sequence or more, found [1]",
        ),
        (
            Config { sequences: Some(2), qkv: base.qkv.batch(2), ..base.clone() },
            "softmax: tensor `q`: expected batch B = 1 with cu_seqlens, found 2",
        ),
        (
            Config { sequences: Some(2), qkv: base.qkv.keys(9), ..base.clone() },
            "softmax: tensor `k`: expected M = N = 8 with cu_seqlens, found M = 9",
        ),
        (
            Config { sequences: Some(2), lengths: true, ..base.clone() },
            "softmax: tensor `cu_seqlens`: expected none with lengths, which are those of batch entries, found [3]",
        ),
    ] {
        assert_eq!(config.program(&Caps::portable()).unwrap_err().to_string(), sentence);
    }
    let mut all = inputs(&base.qkv);
    for (config, name, values, sentence) in [
        (
            Config { lengths: true, ..base.clone() },
            "lengths",
            vec![9],
            "softmax: tensor `lengths`: expected at most M = 8 keys, found 9 at 0",
        ),
        (
            Config { sequences: Some(2), ..base },
            "cu_seqlens",
            vec![0, 9, 8],
            "softmax: tensor `cu_seqlens`: expected values that do not decrease, found 8 after 9 at 2",
        ),
    ] {
        all.insert(name, HostTensor::new([values.len()], Values::U32(values)));
        assert_eq!(config.cpu(&all).unwrap_err().to_string(), sentence);
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(queries_that_see_no_key_give_zeros),
        test(scores_of_a_hundred_do_not_overflow),
        test(pieces_with_a_growing_cache_equal_the_whole),
        test(outputs_over_parts_of_the_keys_merge_by_their_logarithms),
        test(a_sink_is_a_key_without_a_value),
        test(capped_scores_are_right_over_the_whole_range),
        test(rows_that_see_nothing_give_zeros_and_the_logarithm_of_nothing),
        test(no_dispatch_has_more_than_eight_buffers),
        test(any_shape_matches_the_definition_on_the_cpu),
        test(work_is_that_of_the_pairs_the_mask_lets_through),
        test(work_and_workspace_of_large_shapes),
        test(keys_are_split_where_that_pays),
        test(refused_before_anything_runs),
    ]
}
