//! Linformer: what is particular to it.

use libtest_mimic::Trial;
use proptest::prelude::*;
use subquad::catalog::case::Case;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::request::Request;
use subquad::catalog::spec::Op;
use subquad::gpu::Caps;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::linformer::{Config, Pool, Projection, Sharing};
use subquad::ops::{find, softmax};
use subquad::tensor::{DType, HostTensor, Layout, Shape, TensorMap};
use subquad::verify::tolerance;

use crate::support::{self, assert_matches, assert_same_bits, backends, roomy, test};

fn op() -> &'static Op {
    find("linformer").unwrap()
}

/// q, k, v and what the configuration needs of e and f.
fn inputs(c: &Config) -> TensorMap {
    let mut all = support::inputs(&c.qkv);
    let drawn = random::parameters(op(), &Flags::new(), c, &all, 5).unwrap();
    drawn.into_iter().for_each(|(name, tensor)| all.insert(name, tensor));
    all
}

fn matrices(e: Sharing, f: Option<Sharing>) -> Projection {
    Projection::Matrices { e, f }
}

/// One projection given once, given for keys and values, and given to each head, is the same projection.
fn sharing_is_only_a_way_to_say_less() {
    let once = Config::new(Qkv::new().batch(2).heads(4).len(30).dim(12).dim_v(20).kv_heads(2).keys(70), 25);
    let all = inputs(&once);
    let e = all.get("e").unwrap();
    let mut twice = all.clone();
    twice.insert("f", e.clone());
    let each = HostTensor::f32([4, 25, 70], e.to_f32().repeat(4));
    let mut per_head = all.clone();
    per_head.insert("e", each);
    for (backend, run) in backends() {
        let want = run(&once, &all);
        let both = Config { projection: matrices(Sharing::AllHeads, Some(Sharing::AllHeads)), ..once.clone() };
        assert_same_bits(backend, want.get("o").unwrap(), run(&both, &twice).get("o").unwrap());
        let own = Config { projection: matrices(Sharing::PerHead, None), ..once.clone() };
        assert_matches(backend, &once, &all, &run(&own, &per_head));
    }
}

/// Ground truth from elsewhere: with as many rows as tokens, each its own, it is exact attention.
fn a_projection_that_keeps_every_token_is_softmax() {
    let c = Config::new(Qkv::new().heads(2).len(50).dim(12).dim_v(20).keys(70), 70);
    let mut all = support::inputs(&c.qkv);
    let exact = softmax::Config { causal: false, ..softmax::Config::new(c.qkv) };
    let want = &exact.reference(&all, Precision::F64, Rows::All)[0].1;
    let identity: Vec<f32> = (0..70 * 70).map(|i| if i / 70 == i % 70 { 1.0 } else { 0.0 }).collect();
    all.insert("e", HostTensor::f32([1, 70, 70], identity));
    for (backend, run) in backends() {
        for projection in [c.projection, Projection::Pool(Pool::Mean), Projection::Pool(Pool::Max)] {
            let got = run(&Config { projection, ..c.clone() }, &all);
            let error = tolerance::relative_rms(&got.get("o").unwrap().to_f64(), want);
            assert!(error < 1e-6, "{backend}, {projection:?}: {error:.2e}");
        }
    }
}

/// A mean is a projection with equal weights; windows of neighbouring rows overlap where K does not divide M.
fn pooling_by_the_mean_is_the_matrix_of_the_contract() {
    let (keys, rank) = (70, 25);
    let pooled = Config {
        projection: Projection::Pool(Pool::Mean),
        ..Config::new(Qkv::new().heads(1).len(30).dim(8).keys(keys), rank)
    };
    let mut all = support::inputs(&pooled.qkv);
    let mut e = vec![0.0; rank * keys];
    for r in 0..rank {
        let window = r * keys / rank..((r + 1) * keys).div_ceil(rank);
        assert!(window.len() == 3 || window.len() == 4, "{window:?}");
        window.clone().for_each(|j| e[r * keys + j] = 1.0 / window.len() as f32);
    }
    all.insert("e", HostTensor::f32([1, rank, keys], e));
    let matrix = Config::new(pooled.qkv, rank);
    for (backend, run) in backends() {
        assert_matches(backend, &matrix, &all, &run(&pooled, &all));
    }
}

fn a_projection_is_drawn_from_the_seed_with_rows_of_the_length_of_a_token() {
    let c = Config::new(Qkv::new().heads(2).len(10).dim(8).keys(400), 100);
    let given = support::inputs(&c.qkv);
    let e = |seed| random::parameters(op(), &Flags::new(), &c, &given, seed).unwrap();
    assert_eq!(e(3).names(), "e", "without f, e serves both");
    let drawn = e(3).get("e").unwrap().to_f64();
    assert_eq!(drawn, e(3).get("e").unwrap().to_f64());
    assert_ne!(drawn, e(4).get("e").unwrap().to_f64());
    let variance = drawn.iter().map(|x| x * x).sum::<f64>() / drawn.len() as f64;
    assert!((variance * 100.0 - 1.0).abs() < 0.02, "{variance}");
    let pooled = Config { projection: Projection::Pool(Pool::Max), ..c };
    assert!(random::parameters(op(), &Flags::new(), &pooled, &given, 3).unwrap().is_empty());
}

fn refusal(flags: &[(&str, &str)], extra: &[(&str, [usize; 3])]) -> String {
    let shape = |name: &str, dims: &[usize]| (name.to_owned(), Shape::from(dims));
    let mut shapes: Vec<_> = ["q", "k", "v"].map(|name| shape(name, &[1, 4, 300, 8])).to_vec();
    shapes.extend(extra.iter().map(|(name, dims)| shape(name, dims)));
    let flags = Flags::from_pairs(flags);
    let request = Request { flags: &flags, shapes: &shapes, layout: Layout::Bhnd, dtype: DType::F32, carry: false };
    op().configure(&request).err().map_or_else(|| "accepted".into(), |e| e.to_string())
}

fn projections_that_do_not_fit_are_refused_by_name() {
    for (flags, extra, sentence) in [
        (&[][..], &[][..], "accepted"),
        (&[], &[("e", [1, 20, 300]), ("f", [4, 20, 300])], "accepted"),
        (&[("rank", "20")], &[("e", [1, 20, 300])], "accepted"),
        (&[], &[("f", [1, 20, 300])], "accepted"),
        (
            &[],
            &[("e", [1, 20, 299])],
            "linformer: tensor `e`: expected length M = 300 as in k, or longer, found [1, 20, 299]",
        ),
        (&[], &[("e", [2, 20, 300])], "linformer: tensor `e`: expected 1 or H = 4 heads, found [2, 20, 300]"),
        (
            &[],
            &[("e", [1, 20, 300]), ("f", [1, 21, 300])],
            "linformer: tensor `f`: expected rank K = 20 as in e, found [1, 21, 300]",
        ),
        (
            &[("rank", "21")],
            &[("e", [1, 20, 300])],
            "linformer: tensor `e`: expected rank K = 21 as in --rank, found [1, 20, 300]",
        ),
        (
            &[],
            &[("e", [1, 301, 300])],
            "linformer: tensor `e`: expected rank K of at most M = 300, found [1, 301, 300]",
        ),
        (&[("rank", "301")], &[], "linformer: --rank: expected 1 to M = 300, found 301"),
        (
            &[("pool", "mean")],
            &[("e", [1, 20, 300])],
            "linformer: tensor `e`: expected none with --pool mean, which takes its place, found [1, 20, 300]",
        ),
        (
            &[("pool", "max")],
            &[("f", [1, 20, 300])],
            "linformer: tensor `f`: expected none with --pool max, which takes its place, found [1, 20, 300]",
        ),
        (&[("pool", "least")], &[], "linformer: --pool: expected mean or max, found `least`"),
        (&[("rank", "0")], &[], "linformer: --rank: expected a whole number from 1 to 2^64 - 1, found `0`"),
    ] {
        assert_eq!(refusal(flags, extra), sentence, "{flags:?} {extra:?}");
    }
    let short = Case::new("short", &[("N", 64)]).configure(op()).err().unwrap().to_string();
    assert_eq!(short, "linformer: `rank`: expected 1 to M = 64, found 256 (the default; see --rank)");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    fn any_shape_matches_the_definition_on_the_cpu(
        (batch, kv_heads, group) in (1usize..=2, 1usize..=3, 1usize..=3),
        (queries, keys, rank) in (1usize..=200, 1usize..=300, 1usize..=300),
        (dim_k, dim_v) in (1usize..=60, 1usize..=60),
        which in 0usize..6,
        bnhd in any::<bool>(),
    ) {
        let layout = if bnhd { Layout::Bnhd } else { Layout::Bhnd };
        let qkv = Qkv::new().batch(batch).heads(kv_heads * group).len(queries).dim(dim_k).dim_v(dim_v).kv_heads(kv_heads).keys(keys).layout(layout);
        let projection = [
            matrices(Sharing::AllHeads, None),
            matrices(Sharing::PerHead, None),
            matrices(Sharing::AllHeads, Some(Sharing::PerHead)),
            matrices(Sharing::PerHead, Some(Sharing::AllHeads)),
            Projection::Pool(Pool::Mean),
            Projection::Pool(Pool::Max),
        ][which];
        let c = Config { projection, ..Config::new(qkv, rank.min(keys)) };
        let all = inputs(&c);
        assert_matches("cpu", &c, &all, &c.cpu(&all).unwrap());
    }
}

/// Sizes are pure: shapes that no machine here could hold.
fn work_and_workspace_grow_with_the_length_alone() {
    let caps = roomy();
    let program =
        |len: usize, rank: usize| Config::new(Qkv::new().heads(8).len(len).dim(64), rank).program(&caps).unwrap();
    let per_token = |len: usize| {
        let cost = program(len, 256).cost();
        (cost.flops / len as f64, cost.bytes() / len as f64)
    };
    let (short, long) = (per_token(8192), per_token(131_072));
    assert!(long.0 <= 1.001 * short.0 && long.1 <= 1.001 * short.1, "{short:?} {long:?}");
    let million = program(1_000_000, 256);
    // Projected keys and values, 8 heads x 256 rows x 64 columns of f32 each, and one half's splits of the tokens.
    let half = 8 * 256 * 64 * 4;
    let splits = million.workspace()[2].bytes / half;
    assert_eq!(million.workspace_bytes(), 2 * half + splits * half);
    assert!((2..=2 * caps.full_groups / 32).contains(&splits), "{splits} splits over {} workgroups", caps.full_groups);
    // What is read of q, k, v and o stays that of the tensors; the projection is read by every head.
    let streams = 4.0 * 8.0 * 64.0 * 1e6 * 4.0;
    assert!(million.cost().bytes() < 10.0 * streams);
    // Twice the heads fill the machine with half the splits.
    let wide = Config::new(Qkv::new().heads(64).len(1_000_000).dim(64), 1024)
        .program(&Caps { full_groups: 64, ..caps })
        .unwrap();
    assert_eq!(wide.workspace().len(), 2, "no partial sums where tiles alone fill the machine");
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(sharing_is_only_a_way_to_say_less),
        test(a_projection_that_keeps_every_token_is_softmax),
        test(pooling_by_the_mean_is_the_matrix_of_the_contract),
        test(a_projection_is_drawn_from_the_seed_with_rows_of_the_length_of_a_token),
        test(projections_that_do_not_fit_are_refused_by_name),
        test(any_shape_matches_the_definition_on_the_cpu),
        test(work_and_workspace_grow_with_the_length_alone),
    ]
}
