//! RAM-Net: what is particular to it.

use libtest_mimic::Trial;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::request::Request;
use subquad::gpu::Caps;
use subquad::operator::mode::{Direction, Mode, StateLayout};
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::primitives::topk;
use subquad::ops::ramnet::{Cape, Config, Form, OP, Rule};
use subquad::tensor::{DType, HostTensor, Layout, Shape, TensorMap, Values};
use subquad::verify::tolerance;
use subquad::verify::tolerance::Reference;

use crate::support::{
    self, assert_matches, assert_same_bits, backends, backends_for, context, on_gpu_with, roomy, test,
};

/// Random q, k, v and gamma.
pub(crate) fn inputs(c: &Config) -> TensorMap {
    let mut all = support::inputs(&c.qkv);
    let (b, h, n) = (c.qkv.batch, c.qkv.heads, c.qkv.queries);
    let values = random::normal(11, 3, b * h * n);
    all.insert("gamma", HostTensor::f32([b, h, n], values).cast(c.qkv.dtype));
    all
}

fn filled(shape: impl Into<Shape>, value: f32) -> HostTensor {
    let shape = shape.into();
    HostTensor::f32(shape.clone(), vec![value; shape.count()])
}

/// Several of the shapes and rules, one head with CAPE of two.
pub(crate) fn several() -> [Config; 4] {
    let base = Config::new(1, 2, 150, 3, 12);
    let mixed = Cape::Heads(vec![1]);
    [
        base.clone(),
        Config { rule: Rule::Pdma, cape: mixed.clone(), topk: 5, ..base.clone() },
        Config { cape: mixed, choices: 2, qkv: base.qkv.dim_k(8), topk: 12, ..base.clone() },
        Config { choices: 6, topk: 3, tau: 0.5, ..base },
    ]
}

/// Logits that give the address of these digits so much of all weight, the rest evenly spread; of the others nothing.
fn logits(digits: &[usize], choices: usize, weight: f64) -> Vec<f32> {
    let share = weight.powf(1.0 / digits.len() as f64);
    let above = (share * (choices - 1) as f64 / (1.0 - share)).ln() as f32;
    digits.iter().flat_map(|digit| (0..choices).map(move |j| if j == *digit { above } else { 0.0 })).collect()
}

/// Tokens of these weights and gammas into slot 0 of 1024; what is in it then, values being zero but for the last.
fn content(weights: &[f64], gammas: &[f32], run: &dyn Fn(&Config, &TensorMap) -> f64) -> f64 {
    let n = weights.len();
    let c = Config { topk: 1, mode: Mode::new().carry(), ..Config::new(1, 1, n, 5, 1) };
    let rows: Vec<f32> = weights.iter().flat_map(|w| logits(&[0; 5], 4, *w)).collect();
    let mut v = vec![0.0; n];
    v[n - 1] = 1.0;
    let mut all = TensorMap::new();
    all.insert("q", HostTensor::f32([1, 1, n, 20], rows.clone()));
    all.insert("k", HostTensor::f32([1, 1, n, 20], rows));
    all.insert("v", HostTensor::f32([1, 1, n, 1], v));
    all.insert("gamma", HostTensor::f32([1, 1, n], gammas.to_vec()));
    run(&c, &all)
}

/// Variant 1.5: rates of a trained model's trace.
fn rates_are_those_of_the_trace() {
    let definition = |c: &Config, all: &TensorMap| c.reference(all, Precision::F64, Rows::All)[1].1[0];
    for (weights, gammas, rate) in [
        (vec![0.26088032126426697], vec![6.125], 0.9999769439),
        (vec![0.0540463961660862], vec![6.125], 0.9993341504),
        (vec![0.025982456281781197], vec![6.125], 0.9971595399),
        (vec![0.14748835563659668, 0.14606589078903198], vec![6.125, 6.375], 0.9901398046),
    ] {
        let got = content(&weights, &gammas, &definition);
        // Logits are f32, and so are weights to seven digits.
        assert!((got - rate).abs() < 2e-8, "{weights:?}: {got}, expected {rate}");
        for (backend, run) in backends() {
            let first = |c: &Config, all: &TensorMap| run(c, all).get("state").unwrap().to_f64()[0];
            let got = content(&weights, &gammas, &first);
            assert!((got - rate).abs() < 2e-7, "{backend}, {weights:?}: {got}, expected {rate}");
        }
    }
}

/// The same, slot after slot instead of token after token: events sorted by slot, each slot walked alone.
fn slots_may_be_walked_one_after_another() {
    for c in several() {
        let all = inputs(&c);
        let Qkv { heads, queries: n, dim_k: width, dim_v: e, .. } = c.qkv;
        let (slots, topk) = (c.slots_of_a_head(), c.topk);
        let find = topk::Config { tau: c.tau, ..topk::Config::new(heads * n, c.digits(), c.choices, topk) };
        let access = |name: &str| {
            let rows = all.get(name).unwrap().clone().reshape([heads * n, width]);
            let logits = [("q".to_owned(), rows)].into_iter().collect();
            let mut found = find.reference(&logits, Precision::F64, Rows::All);
            (found.remove(0).1, found.remove(0).1)
        };
        let (keys, queries) = (access("k"), access("q"));
        let (v, gamma) = (all.get("v").unwrap().to_f64(), all.get("gamma").unwrap().to_f64());
        let mut o = vec![0.0; heads * n * e];
        for h in 0..heads {
            // Slot, token, reads behind writes, rank.
            let mut events = Vec::new();
            for t in 0..n {
                for (reads, (addresses, weights)) in [(false, &keys), (true, &queries)] {
                    for rank in 0..topk {
                        let at = (h * n + t) * topk + rank;
                        let shift = if c.cape.has(h) { t % slots } else { 0 };
                        let slot = (addresses[at] as usize + slots - shift) % slots;
                        events.push((slot, t, reads, rank, weights[at]));
                    }
                }
            }
            events.sort_by_key(|(slot, t, reads, rank, _)| (*slot, *t, *reads, *rank));
            for run in events.chunk_by(|a, b| a.0 == b.0) {
                let mut mass = f64::from(c.initial_mass());
                let mut content = vec![0.0; e];
                for (_, t, reads, _, w) in run {
                    if *reads {
                        let out = &mut o[(h * n + t) * e..][..e];
                        out.iter_mut().zip(&content).for_each(|(o, s)| *o += w * s);
                        continue;
                    }
                    let gamma = gamma[h * n + t];
                    let kept = match c.rule {
                        Rule::Gsu => 1.0 / (1.0 + (gamma + (w / (1.0 - w)).ln()).exp()),
                        Rule::Pdma => (1.0 - w).powf(gamma),
                        other => panic!("{other:?}"),
                    };
                    mass = kept * mass + w;
                    let rate = w / (mass + f64::from(c.effective_mass_eps()));
                    content.iter_mut().zip(&v[(h * n + t) * e..]).for_each(|(s, v)| *s += rate * (v - *s));
                }
            }
        }
        let definition = &c.reference(&all, Precision::F64, Rows::All)[0].1;
        let error = tolerance::relative_rms(definition, &o);
        assert!(error < 1e-12, "{c:?}: {error:.2e}");
        for (backend, run) in backends() {
            assert_matches(&format!("{backend}: {c:?}"), &c, &all, &run(&c, &all));
        }
    }
}

/// A query finds what a key wrote s tokens before iff its address is s further, modulo the slots, which 50 tokens pass
/// three times.
fn cape_makes_addresses_relative_and_turns_past_all_slots() {
    let n = 50;
    let c = Config { topk: 1, cape: Cape::All, ..Config::new(1, 1, n, 2, 1) };
    let row = |address: usize| logits(&[address % 4, address / 4 % 4], 4, 0.5);
    // Token 0 writes slot 5; those behind all write slot 6.
    let k: Vec<f32> = (0..n).flat_map(|t| row(if t == 0 { 5 } else { 6 + t })).collect();
    let q: Vec<f32> = (0..n).flat_map(|t| row(5 + t)).collect();
    let mut v = vec![0.0; n];
    v[0] = 1.0;
    let mut all = TensorMap::new();
    all.insert("k", HostTensor::f32([1, 1, n, 8], k));
    all.insert("q", HostTensor::f32([1, 1, n, 8], q));
    all.insert("v", HostTensor::f32([1, 1, n, 1], v));
    all.insert("gamma", filled([1, 1, n], 6.0));
    for (backend, run) in backends() {
        let o = run(&c, &all).remove("o").unwrap().to_f32();
        assert!(o[0] > 0.4 && o.iter().all(|x| (x - o[0]).abs() < 1e-6), "{backend}: {o:?}");
        // From a position far beyond 32 bits, which the slots divide: the same.
        let far = HostTensor::new([1], Values::I64(vec![(1 << 40) + 16]));
        let mut later = all.clone();
        later.insert("position", far);
        let got = run(&Config { mode: c.mode.carry(), ..c.clone() }, &later);
        assert_same_bits(backend, got.get("o").unwrap(), &HostTensor::f32([1, 1, n, 1], o));
        assert_eq!(got.get("position").unwrap().values(), &Values::I64(vec![(1 << 40) + 66]));
        // The low word runs over.
        let mut over = all.clone();
        over.insert("position", HostTensor::new([1], Values::I64(vec![0xffff_fff0])));
        let got = run(&Config { mode: c.mode.carry(), ..c.clone() }, &over);
        assert_eq!(got.get("position").unwrap().values(), &Values::I64(vec![0x1_0000_0022]), "{backend}");
        assert_matches(backend, &Config { mode: c.mode.carry(), ..c.clone() }, &over, &got);
    }
}

/// Slots that no power of two counts.
fn positions_are_reduced_modulo_any_number_of_slots() {
    let c = Config { choices: 6, topk: 2, cape: Cape::All, mode: Mode::new().carry(), ..Config::new(1, 2, 40, 3, 4) };
    let mut all = inputs(&c);
    all.insert("position", HostTensor::new([1], Values::I64(vec![(1 << 45) + 12_345_678_901])));
    for (backend, run) in backends() {
        assert_matches(backend, &c, &all, &run(&c, &all));
    }
}

/// Every token writes and reads the same slots, of tiles of 128 tokens.
fn slots_that_all_tokens_share_are_right() {
    for rule in [Rule::Gsu, Rule::Pdma] {
        let c = Config { rule, mode: Mode::new().carry(), ..Config::new(1, 2, 300, 5, 20) };
        let mut all = inputs(&c);
        for name in ["q", "k"] {
            let t = all.get(name).unwrap();
            let first: Vec<f32> = t.to_f32()[..20].iter().map(|x| 0.2 * x).collect();
            all.insert(name, HostTensor::f32(t.shape().clone(), first.repeat(600)));
        }
        let first = all.get("q").unwrap().clone();
        all.insert("k", first);
        for (backend, run) in backends() {
            let (a, b) = (run(&c, &all), run(&c, &all));
            assert_matches(backend, &c, &all, &a);
            assert_same_bits(backend, a.get("o").unwrap(), b.get("o").unwrap());
        }
        let Some(ctx) = context() else { continue };
        let pieces = on_gpu_with(ctx, c.program_as(ctx.caps(), Form::Pieces).unwrap(), &all);
        assert_matches("pieces", &c, &all, &pieces);
    }
}

fn gamma_of_infinity_overwrites_and_of_minus_infinity_averages() {
    for rule in [Rule::Gsu, Rule::Pdma] {
        for dtype in [DType::F32, DType::F16] {
            // One slot of two, always with half of the weight.
            let base = Config::new(1, 1, 6, 1, 3);
            let qkv = base.qkv.dim_k(2).dtype(dtype);
            let c = Config { rule, choices: 2, topk: 2, mass_eps: Some(0.0), qkv, mode: base.mode.carry(), ..base };
            let mut all = support::inputs(&c.qkv);
            for name in ["q", "k"] {
                all.insert(name, filled([1, 1, 6, 2], 0.0).cast(dtype));
            }
            let v = all.get("v").unwrap().to_f64();
            for (gamma, want) in [
                (f32::INFINITY, v[15..].to_vec()),
                (
                    f32::NEG_INFINITY,
                    (0..3)
                        .map(|e| {
                            let mass = f64::from(c.initial_mass());
                            (0..6).map(|t| 0.5 * v[3 * t + e]).sum::<f64>() / (mass + 3.0)
                        })
                        .collect(),
                ),
            ] {
                all.insert("gamma", filled([1, 1, 6], gamma).cast(dtype));
                for (backend, run) in backends_for(dtype) {
                    let got = run(&c, &all);
                    let state = got.get("state").unwrap().to_f64();
                    for slot in state.chunks_exact(3) {
                        let error = tolerance::relative_rms(slot, &want);
                        assert!(error < 1e-6, "{backend}, {rule:?}, {gamma}: {slot:?}, expected {want:?}");
                    }
                    assert_matches(&format!("{backend}, {rule:?}, {gamma}"), &c, &all, &got);
                }
            }
        }
    }
}

/// Of eight addresses only the first has a weight that f32 holds; gamma of infinity would overwrite the others all the
/// same. Values that are infinite where nothing is written leave no trace either.
fn weights_that_underflow_are_no_writes() {
    let c = Config { mode: Mode::new().carry(), ..Config::new(1, 1, 3, 5, 2) };
    let row: Vec<f32> = (0..20).map(|i| if i % 4 == 0 { 200.0 } else { 0.0 }).collect();
    let mut all = support::inputs(&c.qkv);
    for name in ["q", "k"] {
        all.insert(name, HostTensor::f32([1, 1, 3, 20], row.repeat(3)));
    }
    all.insert("gamma", filled([1, 1, 3], f32::INFINITY));
    all.insert("state", filled([1, 1, 1024, 2], 7.0));
    all.insert("mass", filled([1, 1, 1024], 0.5));
    all.insert("position", HostTensor::new([1], Values::I64(vec![0])));
    for (backend, run) in backends() {
        let got = run(&c, &all);
        let (state, mass) = (got.get("state").unwrap().to_f32(), got.get("mass").unwrap().to_f32());
        assert!(state[2..].iter().all(|x| *x == 7.0), "{backend}");
        assert!(mass[1..].iter().all(|x| *x == 0.5), "{backend}");
        assert_eq!(mass[0], 1.0, "{backend}");
        assert_matches(backend, &c, &all, &got);
    }
}

/// K = 8, E = 64, in either form: the same at any length.
fn workspace_is_a_blocks_and_bytes_do_not_depend_on_the_number_of_slots() {
    let c = |n: usize, digits: usize| Config { mode: Mode::new().carry(), ..Config::new(1, 8, n, digits, 64) };
    let caps = roomy();
    let program = |n, digits| c(n, digits).program(&caps).unwrap();
    // Slots, weights and retentions; a copy of the masses.
    let table = program(128, 5);
    let sentence =
        "tokens in order, table of 1024 slots and 2 columns in 12 KiB of workgroup memory, blocks of 128 tokens";
    assert_eq!((table.variant(), table.steps().len()), (sentence, 3));
    assert_eq!(table.workspace_bytes(), 8 * (128 * 160 + 1024 * 4));
    let block = program(1 << 17, 5);
    assert_eq!(block.workspace_bytes(), 8 * (43690 * 160 + 1024 * 4));
    // 4096 tokens without a carried state are one block, of addresses and the table.
    let own = Config { mode: Mode::new(), ..c(4096, 5) }.program(&caps).unwrap();
    assert_eq!((own.steps().len(), own.workspace_bytes()), (2, 8 * 4096 * 160 + 8));
    // Longer runs take the memory from one block to the next.
    let own = Config { mode: Mode::new(), ..c(1 << 17, 5) }.program(&caps).unwrap();
    assert_eq!(own.workspace_bytes() - block.workspace_bytes(), 8 * (1024 * 65 * 4 + 8));

    let pieces = "pieces of 32 events, since workgroup memory is too small for a table";
    let one = program(128, 6);
    assert_eq!(one.variant(), format!("blocks of 128 tokens, tiles of 128, {pieces}"));
    // Keys, rates and what is read; of every 32 events, what a chunk passes on.
    assert_eq!(one.workspace_bytes(), 8 * (128 * (160 + 64 + 2048) + 64 * 68 * 4));
    let block = program(1 << 17, 6);
    assert_eq!(block.variant(), format!("blocks of 2048 tokens, tiles of 256, {pieces}"));
    assert_eq!(block.workspace_bytes(), 8 * 2048 * 2408);
    // Seven dispatches a block, and six without a merge.
    assert_eq!((one.steps().len(), block.steps().len()), (6, 7 << 6));
    for n in [4096, 1 << 20] {
        assert_eq!(program(n, 6).workspace_bytes(), block.workspace_bytes());
    }
    // Digits are more logits to read, and nothing else.
    let bytes = |digits| {
        let program = program(8192, digits);
        let steps = program.steps().iter().filter(|step| step.kernel.name != "ramnet_address");
        steps.map(|step| step.cost.bytes()).sum::<f64>()
    };
    assert_eq!(bytes(6), bytes(7));
    let token = bytes(6) / (8192.0 * 8.0);
    // 16 rows of 256 bytes, 8 of them written; 8 values; 8 results of reads, written and read; the output.
    let least = (16 + 8 + 8 + 8 + 8 + 1) as f64 * 256.0;
    assert!(token >= least && token < 1.1 * least, "{token}");
    // Without a carried state the memory is workspace.
    let own = Config { mode: Mode { carry: false, ..Mode::new() }, ..c(1 << 17, 6) }.program(&caps).unwrap();
    assert_eq!(own.workspace_bytes() - block.workspace_bytes(), 8 * (4096 * 65 * 4 + 8));
}

fn decode_is_one_dispatch_that_touches_twice_topk_slots() {
    let c = |digits| Config { mode: Mode::new().carry().decode(), ..Config::new(2, 8, 1, digits, 64) };
    let program = |digits| c(digits).program(&Caps::portable()).unwrap();
    let (few, many) = (program(5), program(8));
    for program in [&few, &many] {
        assert_eq!((program.steps().len(), program.workspace_bytes()), (1, 0));
    }
    assert_eq!(many.cost().bytes() - few.cost().bytes(), 16.0 * 2.0 * 12.0 * 4.0);
    assert!(few.cost().bytes() < 1.1 * 16.0 * (2.0 * 20.0 + 26.0 * 64.0) * 4.0);
}

/// Many heads, whose memories no binding holds together, go in waves; a memory too large for one is refused.
fn memories_over_one_binding_go_in_waves() {
    let c = Config::new(4, 32, 1000, 7, 64);
    let program = c.program(&Caps::portable()).unwrap();
    let waves = program.steps().iter().filter(|step| step.kernel.name == "ramnet_clear").count();
    assert_eq!(waves, 128usize.div_ceil(31));
    assert!(program.workspace().iter().all(|scratch| scratch.bytes <= 128 << 20));
    assert!(c.program(&roomy()).unwrap().steps().len() < program.steps().len());
    let error = Config::new(1, 1, 10, 8, 600).program(&Caps::portable()).unwrap_err().to_string();
    let sentence = "ramnet: the memory (bytes of one head) needs 157548552, the limit of this device is 134217728";
    assert_eq!(error, sentence);
}

/// Configurations, whether a carried state is given, and a seed.
fn any_config() -> impl Strategy<Value = (Config, bool, u64)> {
    let shapes = (1usize..=2, 1usize..=3, 1usize..=90, 1usize..=40);
    let digits = prop::sample::select(vec![(2, 1), (2, 9), (3, 4), (4, 3), (5, 2), (7, 3), (40, 1), (17, 2)]);
    let cape = prop::sample::select(vec![Cape::None, Cape::All, Cape::Heads(vec![0])]);
    let layout = prop::sample::select(vec![Layout::Bhnd, Layout::Bnhd]);
    let rest = (1usize..=40, prop::option::of(1usize..=60), 0.2f32..=2.0);
    (shapes, digits, cape, layout, rest, any::<[bool; 3]>(), any::<u64>()).prop_map(
        |((batch, heads, len, dim_v), (choices, digits), cape, layout, rest, [carry, given, pdma], seed)| {
            let (topk, segment, tau) = rest;
            let base = Config::new(batch, heads, len, digits, dim_v);
            let qkv = base.qkv.dim_k(choices * digits).layout(layout);
            let config = Config { qkv, choices, cape, tau, mode: Mode { segment, carry, ..base.mode }, ..base };
            let topk = topk.min(config.slots_of_a_head());
            let rule = if pdma { Rule::Pdma } else { Rule::Gsu };
            (Config { topk, rule, ..config }, carry && given, seed)
        },
    )
}

/// Any configurations against the definition, the same ones in every run. Values are positive, so that no sum cancels, and
/// gammas too, so that masses do not grow without bound.
fn any_shape_matches_the_definition_on_the_cpu() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let settings = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new_with_rng(settings, rng).run(&any_config(), |(c, given, seed)| {
        let mut all = TensorMap::new();
        for (stream, slot) in c.slots().into_iter().enumerate() {
            for part in slot.parts {
                let mut values = random::normal(seed, stream as u64, part.shape.count());
                if !["q", "k"].contains(&part.name) {
                    values.iter_mut().for_each(|x| *x = x.abs());
                }
                if part.name != "o" && (given || !["state", "mass", "position"].contains(&part.name)) {
                    let scale = if part.name == "position" { 1e5 } else { 1.0 };
                    values.iter_mut().for_each(|x| *x *= scale);
                    all.insert(part.name, HostTensor::f32(part.shape, values).cast(part.dtype));
                }
            }
        }
        let got = c.cpu(&all).unwrap();
        let verdicts = Reference::of(&c, &all, Rows::All).compare(&c, &all, Rows::All, &got);
        prop_assert_eq!(got.len(), verdicts.len());
        for (name, verdict) in verdicts {
            prop_assert!(verdict.ok, "`{}`: {:?}", name, verdict);
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

fn refused_before_anything_runs() {
    let base = Config::new(1, 4, 8, 5, 16);
    for (config, sentence) in [
        (Config { topk: 0, ..base.clone() }, "ramnet: `topk`: expected 1 to 64, found 0"),
        (Config { topk: 65, ..base.clone() }, "ramnet: `topk`: expected 1 to 64, found 65"),
        (
            Config { topk: 17, qkv: base.qkv.dim_k(8), ..base.clone() },
            "ramnet: `topk`: expected 1 to the 16 slots, found 17",
        ),
        (
            Config { choices: 3, ..base.clone() },
            "ramnet: tensor `q`: expected a last axis U*P that is a multiple of P = 3, found 20",
        ),
        (
            Config { qkv: base.qkv.dim_k(36), ..base.clone() },
            "ramnet: `choices`: expected at most 65536 slots P^U, found 4^9",
        ),
        (Config { choices: 1, ..base.clone() }, "ramnet: `choices`: expected 2 to 65536, found 1"),
        (
            Config { cape: Cape::Heads(vec![1, 4]), ..base.clone() },
            "ramnet: `cape`: expected heads from 0 to 3, found 4",
        ),
        (Config { tau: 0.0, ..base.clone() }, "ramnet: `tau`: expected a finite number over 0, found 0"),
        (
            Config { mass_eps: Some(-1.0), ..base.clone() },
            "ramnet: `mass_eps`: expected a finite number of 0 or more, found -1",
        ),
        (Config { mode: base.mode.segment(0), ..base.clone() }, "ramnet: `segment`: expected 1 or more, found 0"),
        (Config { mode: base.mode.non_causal(), ..base.clone() }, "ramnet: `causal` is the only form of this operator"),
        (
            Config { mode: base.mode.carry().state_layout(StateLayout::Ed), ..base.clone() },
            "ramnet: `state_layout` is not among the settings of this operator",
        ),
        (
            Config { mode: base.mode.carry().direction(Direction::Both), ..base.clone() },
            "ramnet: `direction` both cannot be used with a carried state",
        ),
        (
            Config { mode: base.mode.sequences(2), qkv: base.qkv.batch(2), ..base.clone() },
            "ramnet: tensor `q`: expected batch B = 1 with cu_seqlens, found 2",
        ),
        (
            Config { mode: base.mode.sequences(2).decode(), qkv: base.qkv.len(1), ..base.clone() },
            "ramnet: tensor `cu_seqlens`: expected none with decode, found [3]",
        ),
        (
            Config { mode: base.mode.decode().carry(), ..base.clone() },
            "ramnet: tensor `q`: expected N = 1 to decode, found N = 8",
        ),
    ] {
        assert_eq!(config.program(&Caps::portable()).unwrap_err().to_string(), sentence);
    }
}

fn tensors_that_do_not_fit_shapes_or_flags_are_refused_by_name() {
    let good: [(&str, &[usize]); 4] =
        [("q", &[1, 4, 8, 20]), ("k", &[1, 4, 8, 20]), ("v", &[1, 4, 8, 16]), ("gamma", &[1, 4, 8])];
    let refuse = |changed: &[(&str, &[usize])], typed: &[(&str, &str)]| {
        let mut flags = Flags::new();
        typed.iter().for_each(|(name, value)| flags.set(name, *value));
        let dims = |name: &str, dims: &[usize]| {
            changed.iter().find(|(other, _)| *other == name).map_or(dims, |(_, dims)| *dims).to_vec()
        };
        let shapes: Vec<(String, Shape)> =
            good.iter().map(|(name, d)| ((*name).to_owned(), dims(name, d).into())).collect();
        let (layout, dtype) = (Layout::Bhnd, DType::F32);
        let request = Request { flags: &flags, shapes: &shapes, layout, dtype, carry: false };
        OP.configure(&request).err().unwrap().to_string()
    };
    for (changed, typed, sentence) in [
        (
            &[("k", &[1usize, 2, 8, 20] as &[usize])] as &[(&str, &[usize])],
            &[] as &[(&str, &str)],
            "ramnet: tensor `k`: expected heads H = 4 as in q, found 2",
        ),
        (&[("k", &[1, 4, 8, 16])], &[], "ramnet: tensor `k`: expected last axis U*P = 20 as in q, found 16"),
        (&[("v", &[1, 4, 9, 16])], &[], "ramnet: tensor `v`: expected length N = 8 as in q, found 9"),
        (&[("gamma", &[2, 4, 8])], &[], "ramnet: tensor `gamma`: expected batch B = 1 as in q, found 2"),
        (
            &[("gamma", &[1, 4, 8, 1])],
            &[],
            "ramnet: tensor `gamma`: expected rank 3 [B, H, N], found rank 4 [1, 4, 8, 1]",
        ),
        (
            &[],
            &[("choices", "3")],
            "ramnet: tensor `q`: expected a last axis U*P that is a multiple of P = 3, found 20",
        ),
        (&[], &[("choices", "20"), ("topk", "21")], "ramnet: --topk: expected 1 to the 20 slots, found 21"),
        (&[], &[("choices", "2"), ("topk", "65")], "ramnet: --topk: expected 1 to 64, found 65"),
        (&[], &[("choices", "1")], "ramnet: --choices: expected 2 to 65536, found 1"),
        (&[], &[("cape", "0,4")], "ramnet: --cape: expected heads from 0 to 3, found 4"),
        (&[], &[("cape", "some")], "ramnet: --cape: expected none, all or heads as 0,3,5, found `some`"),
        (&[], &[("tau", "0")], "ramnet: --tau: expected a finite number over 0, found 0"),
        (&[], &[("mass-eps", "-1")], "ramnet: --mass-eps: expected a finite number of 0 or more, found -1"),
        (
            &[],
            &[("decode", "true"), ("segment", "4")],
            "ramnet: --segment cannot be used with decode, which takes one token",
        ),
    ] {
        assert_eq!(refuse(changed, typed), sentence);
    }
    // A position cannot be before the first token.
    let c = Config { mode: Mode::new().carry(), ..Config::new(1, 1, 2, 3, 4) };
    let mut all = inputs(&c);
    all.insert("position", HostTensor::new([1], Values::I64(vec![-3])));
    let sentence = "ramnet: tensor `position`: expected a whole number of 0 or more, found -3";
    assert_eq!(c.cpu(&all).unwrap_err().to_string(), sentence);
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(rates_are_those_of_the_trace),
        test(slots_may_be_walked_one_after_another),
        test(cape_makes_addresses_relative_and_turns_past_all_slots),
        test(positions_are_reduced_modulo_any_number_of_slots),
        test(slots_that_all_tokens_share_are_right),
        test(gamma_of_infinity_overwrites_and_of_minus_infinity_averages),
        test(weights_that_underflow_are_no_writes),
        test(workspace_is_a_blocks_and_bytes_do_not_depend_on_the_number_of_slots),
        test(decode_is_one_dispatch_that_touches_twice_topk_slots),
        test(memories_over_one_binding_go_in_waves),
        test(any_shape_matches_the_definition_on_the_cpu),
        test(refused_before_anything_runs),
        test(tensors_that_do_not_fit_shapes_or_flags_are_refused_by_name),
    ]
}
