//! Multi-token attention: what is particular to it.

use libtest_mimic::Trial;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::gpu::Caps;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::mta::{Config, Gate, Gates, OP, Taps};
use subquad::ops::softmax;
use subquad::tensor::{DType, HostTensor, Layout, TensorMap};
use subquad::verify::tolerance;

use crate::support::{assert_matches, backends, backends_for, inputs, roomy, test, tokens};

/// Every stage.
fn all_stages(qkv: Qkv) -> Config {
    let (pre, post) = (Some(Taps::new(3, 5)), Some(Taps::new(4, 3)));
    let gate = Some(Gate { gates: Gates::Scalar, bias: true });
    let base = Config { kq_pre: pre, kq_post: post, norm: true, gate, ..Config::new(qkv) };
    Config { head_pre: true, head_post: Some(2), depth: Some(2), ..base }
}

/// Random q, k, v, and weights drawn as for a case.
fn given(c: &Config) -> TensorMap {
    let mut all = inputs(&c.qkv);
    let weights = random::parameters(&OP, &Flags::new(), c, &all, 5).unwrap();
    weights.iter().for_each(|(name, tensor)| all.insert(name, tensor.clone()));
    all
}

/// Kernels that change nothing.
fn identity(c: &Config, name: &str, taps: Taps) -> (String, HostTensor) {
    let mut values = vec![0.0; c.qkv.heads * taps.queries * taps.keys];
    for head in values.chunks_exact_mut(taps.queries * taps.keys) {
        head[(taps.queries - 1) * taps.keys + taps.keys / 2] = 1.0;
    }
    (name.to_owned(), HostTensor::f32([c.qkv.heads, taps.queries, taps.keys], values))
}

fn unit(shape: [usize; 3]) -> HostTensor {
    let [groups, n, _] = shape;
    let values = (0..groups * n * n).map(|i| if i % (n * n) % (n + 1) == 0 { 1.0 } else { 0.0 }).collect();
    HostTensor::f32(shape, values)
}

fn error(got: &TensorMap, want: &[f64]) -> f64 {
    tolerance::relative_rms(&got.get("o").unwrap().to_f64(), want)
}

fn kernels_of_the_identity_are_softmax() {
    for causal in [true, false] {
        let qkv = Qkv::new().heads(4).len(45).dim(8).dim_v(12).kv_heads(2);
        let (pre, post) = (Taps::new(6, 11), Taps::new(3, 5));
        let kernels = Config { kq_pre: Some(pre), kq_post: Some(post), causal, ..Config::new(qkv) };
        let mixed = Config { head_pre: true, head_post: Some(2), ..kernels.clone() };
        let mut all = inputs(&qkv);
        for (name, tensor) in [identity(&kernels, "kq_pre", pre), identity(&kernels, "kq_post", post)] {
            all.insert(name, tensor);
        }
        all.insert("head_pre", unit([1, 4, 4]).reshape([4, 4]));
        all.insert("head_post", unit([2, 2, 2]));
        let plain = softmax::Config { causal, ..softmax::Config::new(qkv) };
        let want = &plain.reference(&all, Precision::F64, Rows::All)[0].1;
        for c in [Config { causal, ..Config::new(qkv) }, kernels, mixed] {
            assert!(tolerance::relative_rms(&c.reference(&all, Precision::F64, Rows::All)[0].1, want) < 1e-14);
            for (backend, run) in backends() {
                let error = error(&run(&c, &all), want);
                assert!(error < 5e-7, "{backend}: {error:.1e} from softmax, {c:?}");
            }
        }
    }
}

/// Without convolutions: softmax between two matrices over the heads.
fn kernels_of_one_cell_are_talking_heads() {
    let qkv = Qkv::new().heads(3).len(20).dim(4).dim_v(5);
    let one = Taps::new(1, 1);
    let heads = Config { head_pre: true, head_post: Some(3), ..Config::new(qkv) };
    let c = Config { kq_pre: Some(one), kq_post: Some(one), ..heads.clone() };
    let mut all = given(&heads);
    for name in ["kq_pre", "kq_post"] {
        let (name, tensor) = identity(&c, name, one);
        all.insert(name, tensor);
    }
    let read = |name: &str| all.get(name).unwrap().to_f64();
    let [q, k, v, pre, post] = ["q", "k", "v", "head_pre", "head_post"].map(read);
    let (n, d, e) = (20, 4, 5);
    let mut want = vec![0.0; 3 * n * e];
    for i in 0..n {
        let score = |h: usize, j: usize| {
            (0..d).map(|x| q[(h * n + i) * d + x] * k[(h * n + j) * d + x]).sum::<f64>() / (d as f64).sqrt()
        };
        let talked = |o: usize, j: usize| (0..3).map(|h| pre[o * 3 + h] * score(h, j)).sum::<f64>();
        let weights: Vec<Vec<f64>> = (0..3)
            .map(|o| {
                let own: Vec<f64> = (0..=i).map(|j| talked(o, j).exp()).collect();
                let sum: f64 = own.iter().sum();
                own.into_iter().map(|x| x / sum).collect()
            })
            .collect();
        for o in 0..3 {
            for j in 0..=i {
                let weight: f64 = (0..3).map(|h| post[h * 3 + o] * weights[h][j]).sum();
                (0..e).for_each(|x| want[(o * n + i) * e + x] += weight * v[(o * n + j) * e + x]);
            }
        }
    }
    for c in [heads, c] {
        for (backend, run) in backends() {
            let error = error(&run(&c, &all), &want);
            assert!(error < 1e-6, "{backend}: {error:.1e} from talking heads");
        }
    }
}

/// Pieces of a sequence, each with all keys so far and the queries that the one before left.
fn pieces_equal_the_whole_at_any_cut() {
    for base in [
        Config { head_post: None, ..all_stages(Qkv::new().batch(2).heads(4).len(40).dim(8).dim_v(6).kv_heads(2)) },
        all_stages(Qkv::new().heads(4).len(40).dim(8).dim_v(6)),
        all_stages(Qkv::new().heads(2).len(40).dim(8).dim_v(6).dtype(DType::F16)),
    ] {
        let whole = Config { carry: true, ..base };
        let all = given(&whole);
        let s = whole.qkv;
        for (backend, run) in backends_for(s.dtype) {
            let want = run(&whole, &all);
            let mut tail = None;
            for pair in [0, 1, 2, 9, 30, 40].windows(2) {
                let c = Config { qkv: s.queries(pair[1] - pair[0]).keys(pair[1]), ..whole.clone() };
                let mut piece = all.clone();
                piece.insert("q", tokens(all.get("q").unwrap(), pair[0]..pair[1]).cast(s.dtype));
                for name in ["k", "v"] {
                    piece.insert(name, tokens(all.get(name).unwrap(), 0..pair[1]).cast(s.dtype));
                }
                tail.into_iter().for_each(|tail| piece.insert("q_tail", tail));
                let mut got = run(&c, &piece);
                assert_matches(&format!("{backend}, {pair:?}"), &c, &piece, &got);
                let cut = tokens(want.get("o").unwrap(), pair[0]..pair[1]).to_f64();
                let bound = if s.dtype == DType::F16 { 2e-3 } else { 2e-6 };
                let error = error(&got, &cut);
                assert!(error < bound, "{backend}, {pair:?}: {error:.1e}, {c:?}");
                tail = got.remove("q_tail");
            }
            assert_eq!(tail.as_ref(), want.get("q_tail"), "{backend}");
        }
    }
}

/// Two queries and keys of one dimension, by hand: the second row of scores takes the first one's, of which the second
/// key is hidden.
fn a_kernel_reads_zeros_where_a_row_sees_nothing() {
    let c = Config { kq_pre: Some(Taps::new(2, 3)), ..Config::new(Qkv::new().heads(1).len(2).dim(1)) };
    let mut all = TensorMap::new();
    all.insert("q", HostTensor::f32([1, 1, 2, 1], vec![1.0, 2.0]));
    all.insert("k", HostTensor::f32([1, 1, 2, 1], vec![0.5, -1.0]));
    all.insert("v", HostTensor::f32([1, 1, 2, 1], vec![1.0, 3.0]));
    all.insert("kq_pre", HostTensor::f32([1, 2, 3], vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6]));
    // Scores: 0.5 and, hidden, -1; then 1 and -2.
    let first = 0.5 * 1.0 + 0.6 * -2.0 + 0.2 * 0.5;
    let second = 0.4 * 1.0 + 0.5 * -2.0 + 0.1 * 0.5;
    let (a, b) = (f64::exp(first), f64::exp(second));
    for (backend, run) in backends() {
        let error = error(&run(&c, &all), &[1.0, (a + 3.0 * b) / (a + b)]);
        assert!(error < 1e-6, "{backend}: {error:.1e}");
    }
}

/// Of a million tokens, 16 heads and every stage: 8 bytes per head and row, whatever the kernels are.
fn workspace_is_linear_in_the_length() {
    let bytes = |n: usize, change: &dyn Fn(Config) -> Config| {
        let c = change(all_stages(Qkv::new().heads(16).len(n).dim(64).kv_heads(4)));
        c.program(&roomy()).unwrap().workspace_bytes()
    };
    let most = |c| Config { kq_pre: Some(Taps::new(16, 31)), kq_post: Some(Taps::new(16, 31)), ..c };
    assert_eq!(bytes(1_000_000, &|c| c), 16 * 1_000_000 * 8 + 16);
    assert_eq!(bytes(1_000_000, &most), bytes(1_000_000, &|c| c));
    let none_after = |c| Config { kq_post: None, head_post: None, ..c };
    assert_eq!(bytes(1_000_000, &none_after), 16);
    // Within the bindings of a portable device where its tensors are.
    let c = Config { head_pre: false, head_post: None, ..all_stages(Qkv::new().heads(2).len(100_000).dim(64)) };
    assert!(c.program(&Caps::portable()).is_ok());
}

fn a_plan_says_how_often_it_computes_scores() {
    let variant = |c: &Config| c.program(&roomy()).unwrap().variant().to_owned();
    let base = Config::new(Qkv::new().heads(8).len(1024).dim(64));
    let softmax = softmax::Config::new(base.qkv).program(&roomy()).unwrap().variant().to_owned();
    assert_eq!(variant(&base), softmax);
    let pre = Config { kq_pre: Some(Taps::new(6, 11)), ..base.clone() };
    // 32 rows for 27.
    assert!(variant(&pre).starts_with("one pass") && variant(&pre).ends_with("1.2 times"), "{}", variant(&pre));
    let after = Config { kq_post: Some(Taps::new(6, 11)), ..pre.clone() };
    // 64 for 59 in the first pass, 32 for 22 in the second.
    assert!(variant(&after).starts_with("two passes") && variant(&after).ends_with("2.5 times"), "{}", variant(&after));
    let both = Config { kq_post: Some(Taps::new(6, 11)), head_pre: true, head_post: Some(8), ..pre };
    // 13 x 42 cells for 8 x 32, and 18 x 52 in the second pass.
    assert!(variant(&both).starts_with("two passes") && variant(&both).ends_with("5.8 times"), "{}", variant(&both));
}

fn what_fields_get_wrong_is_refused_in_a_sentence() {
    let base = Config::new(Qkv::new().heads(6).len(10).dim(8).dim_v(4));
    for (c, sentence) in [
        (
            Config { kq_pre: Some(Taps::new(2, 4)), ..base.clone() },
            "mta: tensor `kq_pre`: expected an odd number ck of keys up to 31, found 4",
        ),
        (
            Config { kq_post: Some(Taps::new(17, 3)), ..base.clone() },
            "mta: tensor `kq_post`: expected 1 to 16 query rows cq, found 17",
        ),
        (
            Config { head_post: Some(4), ..base.clone() },
            "mta: tensor `head_post`: expected groups of heads that divide H = 6, found groups of 4",
        ),
        (
            Config { depth: Some(0), ..base.clone() },
            "mta: tensor `norm`: expected [4], which --depth scales, found none (given: a depth)",
        ),
        (
            Config { carry: true, causal: false, ..base.clone() },
            "mta: `carry`: expected the causal form, found the non-causal form",
        ),
        (
            Config { carry: true, qkv: base.qkv.keys(9), ..base },
            "mta: tensor `k`: expected M of N = 10 or more with a carried state, found 9",
        ),
    ] {
        assert_eq!(c.validate().unwrap_err().to_string(), sentence);
        assert_eq!(c.program(&roomy()).unwrap_err().to_string(), sentence);
    }
}

/// One query of 2 heads: a maximum and a sum per share of the keys, and E + 4 numbers.
fn few_queries_share_the_keys_among_workgroups() {
    let taps = Some(Taps::new(6, 11));
    let c = Config { kq_pre: taps, kq_post: taps, ..Config::new(Qkv::new().heads(2).queries(1).keys(4096).dim(64)) };
    let program = c.program(&roomy()).unwrap();
    // 256 keys less ten on either side.
    let splits = 4096usize.div_ceil(236);
    assert_eq!(
        program.steps().iter().map(|step| step.groups).collect::<Vec<_>>(),
        [2 * splits as u64, 2 * splits as u64, 2]
    );
    assert_eq!(program.workspace_bytes(), 16 + 2 * splits as u64 * (8 + 4 * 68));
    // A long sequence fills a device by its rows.
    let long = Config { qkv: Qkv::new().heads(2).len(4096).dim(64), ..c };
    assert_eq!(long.program(&roomy()).unwrap().steps().len(), 2);
}

/// Both layouts name the same cut: at batch entries where heads are mixed, else at key heads.
fn tensors_over_one_binding_are_cut() {
    let small = |bytes: u64| {
        let portable = Caps::portable();
        let limits = wgpu::Limits { max_storage_buffer_binding_size: bytes, ..portable.limits.clone() };
        Caps { limits, ..portable }
    };
    let steps = |c: &Config, caps: &Caps| c.program(caps).map(|program| program.steps().len());
    let qkv = Qkv::new().batch(2).heads(4).len(64).dim(16);
    let apart = Config { kq_pre: Some(Taps::new(2, 3)), ..Config::new(qkv) };
    let mixed = Config { head_pre: true, ..apart.clone() };
    // 32 KiB a tensor, 4 a head.
    assert_eq!((steps(&apart, &small(32 << 10)), steps(&mixed, &small(32 << 10))), (Ok(1), Ok(1)));
    assert_eq!((steps(&apart, &small(8 << 10)), steps(&mixed, &small(16 << 10))), (Ok(4), Ok(2)));
    let turned = Config { qkv: qkv.layout(Layout::Bnhd), ..apart };
    assert_eq!(steps(&turned, &small(16 << 10)), Ok(2));
    let refused = steps(&mixed, &small(8 << 10)).unwrap_err().to_string();
    let sentence = "mta: tensor `q` (bytes of one batch entry) needs 16384, the limit of this device is 8192";
    assert_eq!(refused, sentence);
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(kernels_of_the_identity_are_softmax),
        test(kernels_of_one_cell_are_talking_heads),
        test(pieces_equal_the_whole_at_any_cut),
        test(a_kernel_reads_zeros_where_a_row_sees_nothing),
        test(workspace_is_linear_in_the_length),
        test(a_plan_says_how_often_it_computes_scores),
        test(few_queries_share_the_keys_among_workgroups),
        test(what_fields_get_wrong_is_refused_in_a_sentence),
        test(tensors_over_one_binding_are_cut),
    ]
}
