//! The delta rules of linear attention: what is particular to them.

use libtest_mimic::Trial;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::request::Request;
use subquad::catalog::spec::Op;
use subquad::gpu::{Algorithm, Caps, Plan, Workspace, readback};
use subquad::operator::Bound;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::find;
use subquad::ops::linear::{self, Config, FeatureMap, Gate, Rule, delta};
use subquad::tensor::{DType, HostTensor, Layout, Shape, TensorMap};
use subquad::verify::tolerance;

use crate::support::{self, assert_matches, backends, backends_for, roomy, test};

const RULES: [Rule; 3] = [Rule::Delta, Rule::GatedDelta(Gate::Head), Rule::GatedDelta(Gate::Channel)];

fn op() -> &'static Op {
    find("linear").unwrap()
}

fn values(all: &mut TensorMap, name: &str, of: impl Fn(usize, f32) -> f32) {
    let t = all.get(name).unwrap();
    let (shape, dtype) = (t.shape().clone(), t.dtype());
    let values = t.to_f32().into_iter().enumerate().map(|(i, x)| of(i, x)).collect();
    all.insert(name, HostTensor::f32(shape, values).cast(dtype));
}

/// Keys of unit length.
fn unit_keys(c: &Config, all: &mut TensorMap) {
    let k = all.get("k").unwrap().to_f32();
    let norms: Vec<f32> = k.chunks_exact(c.qkv.dim_k).map(|k| k.iter().map(|x| x * x).sum::<f32>().sqrt()).collect();
    values(all, "k", |i, x| x / norms[i / c.qkv.dim_k]);
}

/// Random ones as trained models have them: keys of unit length, beta between 0 and 1, decays of some per cent.
fn inputs(c: &Config) -> TensorMap {
    let mut all = support::inputs(&c.qkv);
    unit_keys(c, &mut all);
    for (slot, stream) in [(c.gate_slot(), 7), (c.beta_slot(), 8)] {
        if let Some(slot) = slot {
            let shape = slot.parts[0].shape.clone();
            let gate = slot.name == "g";
            let of = |x: f32| if gate { -0.1 * x.abs() } else { 1.0 / (1.0 + (-x).exp()) };
            let drawn = random::normal(9, stream, shape.count()).into_iter().map(of).collect();
            all.insert(slot.name, HostTensor::f32(shape, drawn).cast(c.qkv.dtype));
        }
    }
    all
}

fn trained_shapes_match_the_definition_in_every_form() {
    for rule in RULES {
        for qkv in [
            Qkv::new().heads(2).len(130).dim(64),
            Qkv::new().batch(2).heads(4).len(70).dim(20).dim_v(12).kv_heads(2).layout(Layout::Bnhd),
            Qkv::new().heads(3).len(41).dim(128).dim_v(100).kv_heads(1),
            Qkv::new().heads(2).len(65).dim(24).dim_v(20).dtype(DType::F16),
        ] {
            for segment in [None, Some(11)] {
                let c = Config { mode: Mode { segment, ..Mode::new().carry() }, ..Config::new(qkv).rule(rule) };
                let mut all = inputs(&c);
                let state = [qkv.batch, qkv.kv_heads, qkv.dim_k, qkv.dim_v];
                let given = random::normal(4, 4, state.iter().product());
                all.insert("state", HostTensor::f32(state, given));
                for (backend, run) in backends_for(qkv.dtype) {
                    assert_matches(&format!("{backend}, {rule:?}, {qkv:?}"), &c, &all, &run(&c, &all));
                }
            }
        }
    }
}

/// A device is given long sequences piece after piece, and the states between them change places.
fn dispatches_follow_each_other() {
    let Some(ctx) = support::context() else { return };
    let few = Caps { dispatch_flops: 5e5, full_groups: 1, ..ctx.caps().clone() };
    let c = Config {
        mode: Mode::new().carry(),
        ..Config::new(Qkv::new().heads(24).len(500).dim(16).dim_v(8).kv_heads(2)).rule(RULES[1])
    };
    for c in [
        c.clone(),
        Config { mode: c.mode.segment(9), ..c.clone() },
        Config { mode: Mode { carry: false, ..c.mode }, ..c },
    ] {
        let tokens = delta::tokens(&c, &few);
        assert!(
            tokens < 250 && c.mode.segment.is_none_or(|s| tokens.is_multiple_of(s)),
            "{tokens} tokens in a dispatch"
        );
        let program = c.program(&few).unwrap();
        assert_eq!(program.steps().len(), 500usize.div_ceil(tokens) + 2 * usize::from(c.mode.carry), "{program}");
        let plan = Plan::new(ctx, program).unwrap();
        let mut workspace = Workspace::new();
        workspace.reserve(ctx, plan.workspace()).unwrap();
        let all = inputs(&c);
        let up = |name: &str| readback::upload(ctx, name, all.get(name).unwrap()).unwrap();
        let [q, k, v, g, beta] = ["q", "k", "v", "g", "beta"].map(up);
        let [o, state] = [("o", [1, 24, 500, 8]), ("state", [1, 2, 16, 8])]
            .map(|(name, shape)| readback::upload(ctx, name, &HostTensor::zeros(shape, DType::F32)).unwrap());
        let state = c.mode.carry.then_some(&state);
        let tensors = linear::Tensors { g: Some(&g), beta: Some(&beta), state, ..linear::Tensors::new(&q, &k, &v, &o) };
        let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        plan.bind(&Bound::from(tensors), &workspace).unwrap().encode(&mut encoder);
        readback::submit(ctx, encoder).unwrap();
        let mut got = TensorMap::new();
        got.insert("o", readback::read_blocking(ctx, &o).unwrap());
        state.into_iter().for_each(|state| got.insert("state", readback::read_blocking(ctx, state).unwrap()));
        assert_matches(&format!("pieces of {tokens}"), &c, &all, &got);
    }
}

/// beta 0 writes nothing, 1 overwrites, 2 reflects; keys of one direction, so that the triangular system has no small entry.
fn strengths_of_nothing_one_and_two() {
    for rule in RULES {
        let c =
            Config { mode: Mode::new().carry(), ..Config::new(Qkv::new().heads(2).len(70).dim(8).dim_v(6)).rule(rule) };
        let mut all = inputs(&c);
        let given = random::normal(4, 4, 2 * 8 * 6);
        all.insert("state", HostTensor::f32([1, 2, 8, 6], given.clone()));
        for strength in [0.0, 1.0, 2.0] {
            values(&mut all, "beta", |_, _| strength);
            for (backend, run) in backends() {
                let what = format!("{backend}, {rule:?}, beta {strength}");
                let got = run(&c, &all);
                assert_matches(&what, &c, &all, &got);
                if strength == 0.0 && rule == Rule::Delta {
                    assert_eq!(got.get("state").unwrap().to_f32(), given, "{what}: the state is as it was");
                }
            }
        }
    }
}

/// A write of strength beta |k|^2 = 2 keeps the length of what the state returns for its key, and one below 0 lets it grow, so
/// that no rounding fades. Keys that come again show whether the effect of rounding adds up.
fn strengths_under_which_no_rounding_fades() {
    let forms = [(RULES[0], 0.0), (RULES[1], 0.0), (RULES[1], -1e-4), (RULES[2], 0.0), (RULES[2], -1e-4)];
    for (rule, decay) in forms {
        for (which, own) in [("one key", 0.0), ("two keys in turn", 0.0), ("nearly parallel keys", 0.01)] {
            for (dim, strength) in [(8, 2.0), (64, 2.0), (64, 1.49), (64, -0.05)] {
                let qkv = Qkv::new().len(512).dim(dim);
                let c = Config { mode: Mode::new().carry(), ..Config::new(qkv).rule(rule) };
                let mut all = inputs(&c);
                if rule.gate().is_some() {
                    values(&mut all, "g", |_, _| decay);
                }
                let k = all.get("k").unwrap().to_f32();
                values(&mut all, "k", |at, x| {
                    let (token, i) = (at / dim, at % dim);
                    let direction = if which == "two keys in turn" { token % 2 } else { 0 };
                    k[direction * dim + i] + own * x
                });
                let k = all.get("k").unwrap().to_f32();
                let squares: Vec<f32> = k.chunks_exact(dim).map(|k| k.iter().map(|x| x * x).sum()).collect();
                values(&mut all, "beta", |at, _| strength / squares[at]);
                let what = format!("{rule:?}, decay {decay}, {which}, D {dim}, strength {strength}");
                for (backend, run) in backends() {
                    assert_matches(&format!("{backend}, {what}"), &c, &all, &run(&c, &all));
                }
            }
        }
    }
}

/// A strength that the system of a chunk does not take changes nothing of the outputs before its token.
fn a_strong_write_leaves_earlier_outputs_as_they_are() {
    let n = 40;
    for rule in RULES {
        let c = Config::new(Qkv::new().len(n).dim(8)).rule(rule);
        let all = inputs(&c);
        for (backend, run) in backends() {
            let calm = run(&c, &all).get("o").unwrap().to_f32();
            for strong in 0..n {
                let mut all = all.clone();
                values(&mut all, "beta", |t, x| if t == strong { 1.9 } else { x });
                let got = run(&c, &all);
                assert_eq!(calm[..8 * strong], got.get("o").unwrap().to_f32()[..8 * strong], "{backend}, {rule:?}");
                if strong % 13 == 5 {
                    assert_matches(&format!("{backend}, {rule:?}, token {strong}"), &c, &all, &got);
                }
            }
        }
    }
}

/// A key that comes again stands for its last value alone: exactly, where products have no rounding.
fn a_repeated_key_is_overwritten() {
    let (n, d, e) = (100, 8, 4);
    let c = Config {
        scale: Some(1.0),
        mode: Mode::new().carry(),
        ..Config::new(Qkv::new().heads(1).len(n).dim(d).dim_v(e)).rule(Rule::Delta)
    };
    let mut all = inputs(&c);
    let axis = |t: usize| (t * 7 / 3) % 5;
    let one_hot = |i: usize, _: f32| if i % d == axis(i / d) { 1.0 } else { 0.0 };
    values(&mut all, "k", one_hot);
    values(&mut all, "q", one_hot);
    values(&mut all, "v", |_, x| (x * 8.0).round());
    values(&mut all, "beta", |_, _| 1.0);
    let v = all.get("v").unwrap().to_f32();
    for (backend, run) in backends() {
        let got = run(&c, &all);
        assert_eq!(got.get("o").unwrap().to_f32(), v, "{backend}: a token reads what it wrote");
        let state = got.get("state").unwrap().to_f32();
        for row in 0..d {
            let last = (0..n).rev().find(|t| axis(*t) == row);
            let want = last.map_or(vec![0.0; e], |t| v[t * e..][..e].to_vec());
            assert_eq!(state[row * e..][..e], want, "{backend}: row {row}");
        }
    }
}

/// Keys as they come, of any length, with strengths that keep the state from growing.
fn keys_need_no_unit_length() {
    for rule in RULES {
        let c = Config::new(Qkv::new().heads(2).len(120).dim(24).dim_v(20)).rule(rule);
        let mut all = inputs(&c);
        values(&mut all, "k", |i, x| x * [0.01, 3.0, 20.0][i / 24 % 3]);
        let k = all.get("k").unwrap().to_f32();
        let squares: Vec<f32> = k.chunks_exact(24).map(|k| k.iter().map(|x| x * x).sum()).collect();
        values(&mut all, "beta", |i, beta| (1.9 * beta / squares[i]).min(50.0));
        for (backend, run) in backends() {
            assert_matches(&format!("{backend}, {rule:?}"), &c, &all, &run(&c, &all));
        }
    }
}

/// Decays of nothing, of everything, and of more than f32 has numbers for within a chunk.
fn extreme_decays_are_exact() {
    for gate in [Gate::Head, Gate::Channel] {
        let c = Config {
            mode: Mode::new().carry(),
            ..Config::new(Qkv::new().heads(2).len(130).dim(8)).rule(Rule::GatedDelta(gate))
        };
        let mut all = inputs(&c);
        for log in [-250.0 / 64.0, -250.0, -1e-4] {
            values(&mut all, "g", |_, _| log);
            for (backend, run) in backends() {
                assert_matches(&format!("{backend}, {gate:?}, {log}"), &c, &all, &run(&c, &all));
            }
        }
        // Without decay the rule is delta.
        values(&mut all, "g", |_, _| 0.0);
        let plain = Config { rule: Rule::Delta, ..c.clone() };
        for (backend, run) in backends() {
            let (got, want) = (run(&c, &all), run(&plain, &all));
            for (name, want) in want.iter() {
                let error = tolerance::relative_rms(&got.get(name).unwrap().to_f64(), &want.to_f64());
                assert!(error <= 1e-6, "{backend}, {gate:?}, {name}: {error:e}");
            }
        }
        // Where everything is forgotten a token sees itself alone.
        let each = all.get("g").unwrap().shape().count() / (2 * 130);
        values(&mut all, "g", |i, _| if i / each % 130 % 13 == 12 { f32::NEG_INFINITY } else { -0.05 });
        let dot = |t: usize| -> f64 {
            let [q, k] = ["q", "k"].map(|name| all.get(name).unwrap().to_f64());
            (0..8).map(|d| q[t * 8 + d] * k[t * 8 + d]).sum()
        };
        for (backend, run) in backends() {
            let got = run(&c, &all);
            assert_matches(&format!("{backend}, {gate:?}, forgets"), &c, &all, &got);
            let (o, v) = (got.get("o").unwrap().to_f64(), all.get("v").unwrap().to_f64());
            let beta = all.get("beta").unwrap().to_f64();
            for t in (12..130).step_by(13) {
                for e in 0..8 {
                    let want = dot(t) * beta[t] * v[t * 8 + e] / 8f64.sqrt();
                    let at = o[t * 8 + e];
                    assert!((at - want).abs() <= 1e-6 * want.abs().max(1.0), "{backend}, {t}: {at} {want}");
                }
            }
        }
    }
}

/// Keys nearly all the same and beta near 2: errors of earlier tokens are reflected at each one, not damped. The error is
/// stated beside what the definition makes itself in f32.
fn an_ill_conditioned_chunk_stays_as_right_as_the_definition() {
    for rule in RULES {
        let c = Config { mode: Mode::new().carry(), ..Config::new(Qkv::new().heads(2).len(256).dim(16)).rule(rule) };
        let mut all = inputs(&c);
        let first = all.get("k").unwrap().to_f32()[..16].to_vec();
        values(&mut all, "k", |i, x| first[i % 16] + 1e-3 * x);
        unit_keys(&c, &mut all);
        values(&mut all, "beta", |_, _| 1.999);
        let exact = c.reference(&all, Precision::F64, Rows::All);
        let single = c.reference(&all, Precision::F32, Rows::All);
        for (backend, run) in backends() {
            let got = run(&c, &all);
            for ((name, exact), (_, single)) in exact.iter().zip(&single) {
                let error = tolerance::relative_rms(&got.get(name).unwrap().to_f64(), exact);
                let own = tolerance::relative_rms(single, exact);
                eprintln!("{backend}, {rule:?}, `{name}`: off by {error:.1e}, the definition in f32 by {own:.1e}");
                assert!(error < 2e-5 && got.get(name).unwrap().non_finite() == 0, "{backend}, {rule:?}: {error:e}");
            }
        }
    }
}

/// Sizes are pure: shapes that no machine here could hold.
fn bytes_and_workspace_of_large_shapes() {
    let caps = Caps { recurrence: Algorithm::Walk, ..roomy() };
    for (dim, splits) in [(16, 1.0), (64, 1.0), (128, 2.0), (256, 4.0)] {
        for (rule, carry) in RULES.into_iter().flat_map(|rule| [(rule, false), (rule, true)]) {
            let c = Config {
                mode: Mode { carry, ..Mode::new() },
                ..Config::new(Qkv::new().heads(4).len(1 << 20).dim(dim)).rule(rule)
            };
            let program = c.program(&caps).unwrap();
            let bytes = program.cost().bytes();
            let state = 4.0 * 4.0 * (dim * dim) as f64;
            let count = program.steps().iter().filter(|step| step.kernel.name == "linear_delta").count() as f64;
            let [q, k, v, o] = c.qkv.elements().map(|n| 4.0 * n);
            let small = c.cost().bytes() - (q + k + v + o) - if carry { 2.0 * state } else { 0.0 };
            // q, k, g and beta a column split, v and o once; a state read and written between dispatches, and when carried
            // at both ends, with a copy at each.
            let stream = (q + k + small) * splits + v + o;
            let states = (2.0 * (count - 1.0) + if carry { 6.0 } else { 0.0 }) * state;
            assert!((bytes - stream - states).abs() < 1e-9 * bytes, "{dim} {rule:?}: {bytes} {stream} {states}");
            assert!(bytes <= 2.0 * (3.0 * splits + 3.0) / 4.0 * c.cost().bytes(), "{dim} {rule:?}: {bytes}");
            assert!(count > 1.0 && states < 0.03 * bytes, "{dim} {rule:?}: {states} of {bytes} in {count}");
            let kept: u64 = program.workspace().iter().map(|scratch| scratch.bytes).sum();
            assert_eq!(kept, 2 * state as u64 + if carry { 0 } else { 16 });
        }
    }
    let one = Config {
        mode: Mode::new().carry().decode(),
        ..Config::new(Qkv::new().heads(4).len(1).dim(64)).rule(Rule::Delta)
    };
    let program = one.program(&caps).unwrap();
    assert_eq!((program.steps().len(), program.workspace_bytes()), (1, 0));
    assert!(program.cost().bytes() <= 3.0 * one.cost().bytes());
}

fn tiles_fit_the_portable_budget_at_every_dim() {
    for dim_k in 1..=256 {
        for dim_v in [1, 7, 64, 65, 130, 256] {
            for group in [1, 2, 3, 8, 64] {
                for rule in RULES {
                    let c = Config::new(Qkv::new().heads(group).len(8).dim(dim_k).dim_v(dim_v).kv_heads(1)).rule(rule);
                    let t = delta::tiles(&c);
                    assert!(t.workgroup_bytes() <= 16384, "{dim_k} {dim_v} {group} {rule:?}: {t:?}");
                    assert!(t.tile <= 16 && t.rows * t.row_threads >= dim_k);
                }
            }
        }
    }
}

fn tensors_that_do_not_fit_the_rule_are_refused_by_name() {
    let shape = |dims: &[usize]| Shape::from(dims);
    let given = |rule: &str, more: &[(&str, &[usize])]| {
        let mut flags = Flags::new();
        flags.set("rule", rule);
        let mut shapes: Vec<_> =
            [("q", 4), ("k", 2), ("v", 2)].map(|(name, heads)| (name.to_owned(), shape(&[1, heads, 9, 8]))).into();
        shapes.extend(more.iter().map(|(name, dims)| ((*name).to_owned(), shape(dims))));
        let request = Request { flags: &flags, shapes: &shapes, layout: Layout::Bhnd, dtype: DType::F32, carry: false };
        op().configure(&request).map(|_| ()).unwrap_err().to_string()
    };
    let [beta, g] = ["beta", "g"].map(|name| (name, &[1, 2, 9][..]));
    for (rule, more, sentence) in [
        ("delta", vec![], "linear: tensor `beta`: expected [B, G, N] or [B, 1, N], found none (given: q, k, v)"),
        (
            "gated-delta",
            vec![g],
            "linear: tensor `beta`: expected [B, G, N] or [B, 1, N], found none (given: q, k, v, g)",
        ),
        (
            "gated-delta",
            vec![beta],
            "linear: tensor `g`: expected [B, G, N] or [B, G, N, D] or [G], or `a` in its place, found none (given: q, k, v, beta)",
        ),
        ("delta", vec![g, beta], "linear: tensor `g`: expected none under --rule delta, found [1, 2, 9]"),
        ("linear", vec![beta], "linear: tensor `beta`: expected none under --rule linear, found [1, 2, 9]"),
        ("gated", vec![g, beta], "linear: tensor `beta`: expected none under --rule gated, found [1, 2, 9]"),
        (
            "delta",
            vec![("beta", &[1, 4, 9][..])],
            "linear: tensor `beta`: expected [1, 2, 9] as k has, found [1, 4, 9]",
        ),
        (
            "delta",
            vec![("beta", &[1, 2, 9, 8][..])],
            "linear: tensor `beta`: expected rank 3 [B, G, N] or [B, 1, N], found rank 4 [1, 2, 9, 8]",
        ),
        (
            "gated-delta",
            vec![("g", &[1, 2, 9, 7][..]), beta],
            "linear: tensor `g`: expected [1, 2, 9, 8] as k has, found [1, 2, 9, 7]",
        ),
    ] {
        assert_eq!(given(rule, &more), sentence);
    }
}

fn refused_before_anything_runs() {
    let base = Config::new(Qkv::new().heads(4).len(8).dim(16)).rule(Rule::Delta);
    let caps = Caps::portable();
    for (config, sentence) in [
        (
            Config { feature_map: Some(FeatureMap::Relu), ..base.clone() },
            "linear: `feature_map`: expected identity under rule delta, which takes q and k as given, found relu",
        ),
        (
            Config { normalize: Some(true), ..base.clone() },
            "linear: `normalize` cannot be used with rule delta, whose weights may sum to zero",
        ),
        (
            Config { mode: base.mode.non_causal(), ..base.clone() },
            "linear: `causal` cannot be used with rule delta, which is causal",
        ),
        (
            Config { qkv: base.qkv.dim_v(1025), ..base.clone() },
            "linear: tensor `v`: expected E of at most 1024, found 1025",
        ),
    ] {
        assert_eq!(config.program(&caps).unwrap_err().to_string(), sentence);
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(trained_shapes_match_the_definition_in_every_form),
        test(dispatches_follow_each_other),
        test(strengths_of_nothing_one_and_two),
        test(strengths_under_which_no_rounding_fades),
        test(a_strong_write_leaves_earlier_outputs_as_they_are),
        test(a_repeated_key_is_overwritten),
        test(keys_need_no_unit_length),
        test(extreme_decays_are_exact),
        test(an_ill_conditioned_chunk_stays_as_right_as_the_definition),
        test(bytes_and_workspace_of_large_shapes),
        test(tiles_fit_the_portable_budget_at_every_dim),
        test(tensors_that_do_not_fit_the_rule_are_refused_by_name),
        test(refused_before_anything_runs),
    ]
}
