//! Forms in which models ask for a recurrence, against the plain run that each of them stands for, on the cpu backend: packed
//! sequences, directions, more value heads than key heads, gates as models store them, exchanged axes of a state.

use libtest_mimic::Trial;
use subquad::catalog::case::Case;
use subquad::catalog::spec::Op;
use subquad::operator::{Operator, compile};
use subquad::ops::find;
use subquad::tensor::{HostTensor, Layout, TensorMap, Values};
use subquad::verify::run::Prepared;
use subquad::verify::tolerance::relative_rms;

use crate::pieces::join;
use crate::support::{assert_same_bits, cut, length_axis, prepare, test, unchecked_context};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(packed_sequences_are_separate_runs_bit_for_bit),
        test(borders_that_are_none_are_refused),
        test(borders_that_are_none_harm_no_other_sequence_on_a_gpu),
        test(a_backward_run_is_a_forward_run_over_reversed_tokens),
        test(both_directions_are_the_sum_of_the_two_runs),
        test(value_heads_read_repeated_queries_and_keys),
        test(computed_log_decays_are_those_computed_by_hand),
        test(a_constant_decay_and_one_beta_are_repeated_ones),
        test(a_sigmoid_and_unit_lengths_are_those_taken_before),
        test(an_exchanged_state_is_the_state_transposed),
        test(a_rate_of_zero_keeps_the_state),
        test(steps_are_limited_after_softplus_and_offset),
        test(a_skip_per_channel_is_one_per_head_repeated),
    ]
}

const PACKED: [(&str, usize); 6] = [("H", 4), ("G", 2), ("N", 60), ("D", 8), ("E", 6), ("seqs", 6)];

/// Cases of every rule, of the maps that treat a sequence in a way of their own, and of the other operators.
fn several() -> Vec<(&'static Op, Case)> {
    let linear = |flags: &[(&str, &str)], with: &[&'static str]| {
        let case = Case::new("linear", &PACKED);
        let case = flags.iter().fold(case, |case, (name, value)| case.flag(name, value));
        (find("linear").unwrap(), with.iter().fold(case, |case, name| case.with(name)))
    };
    let ssd = Case::new("ssd", &[("H", 4), ("G", 2), ("N", 60), ("P", 6), ("S", 8), ("seqs", 6)]);
    let mamba = Case::new("mamba", &[("C", 10), ("G", 2), ("N", 60), ("S", 6), ("seqs", 6)]);
    let ramnet = Case::new("ramnet", &[("H", 4), ("N", 60), ("U*P", 8), ("E", 6), ("seqs", 6)]);
    vec![
        linear(&[], &[]),
        linear(&[("rule", "gated")], &["g.D"]),
        linear(&[("rule", "gated-delta"), ("l2norm", "true")], &["g", "beta"]),
        linear(&[("feature-map", "performer"), ("features", "12")], &[]),
        linear(&[("feature-map", "cosformer"), ("max-len", "60000")], &[]),
        (find("slay").unwrap(), Case::new("slay", &PACKED)),
        (find("ssd").unwrap(), ssd.with("a_log").with("d").with("z").with("dt_bias")),
        (find("mamba").unwrap(), mamba.with("a_log").with("d").with("z").with("dt_bias")),
        (find("ramnet").unwrap(), ramnet.flag("cape", "1,3").flag("rule", "pdma")),
    ]
}

fn cpu(operator: &dyn Operator, inputs: &TensorMap) -> TensorMap {
    operator.cpu(inputs).unwrap()
}

/// The inputs with every tensor along the sequence changed by `f(tensor, its axis)`.
fn along(op: &Op, case: &Case, inputs: &TensorMap, f: impl Fn(&HostTensor, usize) -> HostTensor) -> TensorMap {
    let one = |(name, tensor): (&str, &HostTensor)| {
        let axis = length_axis(op.inputs, case, name);
        (name.to_owned(), axis.map_or_else(|| tensor.clone(), |axis| f(tensor, axis)))
    };
    inputs.iter().map(one).collect()
}

fn reversed(tensor: &HostTensor, axis: usize) -> HostTensor {
    let tokens: Vec<_> = (0..tensor.shape().dims()[axis]).rev().map(|at| cut(tensor, axis, at, at + 1)).collect();
    join(&tokens, axis)
}

/// Each position of an axis `times` times.
fn repeated(tensor: &HostTensor, axis: usize, times: usize) -> HostTensor {
    let positions = 0..tensor.shape().dims()[axis];
    let pieces: Vec<_> =
        positions.flat_map(|at| (0..times).map(move |_| at)).map(|at| cut(tensor, axis, at, at + 1)).collect();
    join(&pieces, axis)
}

fn assert_all_same(what: &str, got: &TensorMap, want: &TensorMap) {
    assert_eq!(got.len(), want.len(), "{what}: {} and {}", got.names(), want.names());
    for (name, tensor) in want.iter() {
        assert_same_bits(&format!("{what}: {name}"), got.get(name).unwrap(), tensor);
    }
}

fn assert_close(what: &str, got: &TensorMap, want: &TensorMap) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (name, tensor) in want.iter() {
        let error = relative_rms(&got.get(name).unwrap().to_f64(), &tensor.to_f64());
        assert!(error < 1e-5, "{what}: {name}: {error:.2e}");
    }
}

fn packed_sequences_are_separate_runs_bit_for_bit() {
    // The third sequence has no tokens.
    let borders: Vec<u32> = vec![0, 1, 14, 14, 47, 59, 60];
    for (op, case) in several() {
        for layout in [Layout::Bhnd, Layout::Bnhd] {
            let case = case.clone().layout(layout).carry();
            let (packed, mut inputs) = prepare(op, &case.clone().with("cu_seqlens"));
            inputs.insert("cu_seqlens", HostTensor::new([7], Values::U32(borders.clone())));
            let got = cpu(&*packed, &inputs);
            let states: Vec<&str> = op.state.iter().map(|spec| spec.name).filter(|n| got.get(n).is_some()).collect();
            let (mut outputs, mut after) = (Vec::new(), vec![Vec::new(); states.len()]);
            for (at, pair) in borders.windows(2).enumerate() {
                let (from, to) = (pair[0] as usize, pair[1] as usize);
                let mut own = along(op, &case, &inputs, |tensor, axis| cut(tensor, axis, from, to));
                own.remove("cu_seqlens");
                let state = |name: &str| cut(inputs.get(name).unwrap(), 0, at, at + 1);
                states.iter().for_each(|name| own.insert(*name, state(name)));
                if from == to {
                    states.iter().zip(&mut after).for_each(|(name, after)| after.push(state(name)));
                    continue;
                }
                let mut one = case.clone();
                one.axes.iter_mut().filter(|(letter, _)| *letter == "N").for_each(|axis| axis.1 = to - from);
                let mut ran = cpu(&*one.configure(op).unwrap(), &own);
                outputs.push(ran.remove(op.outputs[0].name).unwrap());
                states.iter().zip(&mut after).for_each(|(name, after)| after.push(ran.remove(name).unwrap()));
            }
            let mut want = TensorMap::new();
            let axis = length_axis(op.outputs, &case, op.outputs[0].name).unwrap();
            want.insert(op.outputs[0].name, join(&outputs, axis));
            states.iter().zip(&after).for_each(|(name, after)| want.insert(*name, join(after, 0)));
            assert_all_same(&format!("{} {layout}", case.name), &got, &want);
        }
    }
}

fn borders_that_are_none_are_refused() {
    let (op, case) = several().remove(0);
    let (packed, mut inputs) = prepare(op, &case.with("cu_seqlens"));
    for (borders, found) in [
        ([1, 1, 2, 3, 4, 5, 60], "expected 0 as its first value, found 1"),
        ([0, 1, 2, 3, 4, 5, 59], "expected N = 60 as its last value, found 59"),
        ([0, 9, 8, 9, 9, 9, 60], "expected values that do not decrease, found 8 after 9 at 2"),
    ] {
        inputs.insert("cu_seqlens", HostTensor::new([7], Values::U32(borders.to_vec())));
        let error = packed.cpu(&inputs).unwrap_err().to_string();
        assert_eq!(error, format!("linear: tensor `cu_seqlens`: {found}"));
    }
}

/// A plan does not see the values of borders. Kernels stay within their tensors whatever these are.
fn borders_that_are_none_harm_no_other_sequence_on_a_gpu() {
    let Some(ctx) = unchecked_context() else { return };
    for (op, case) in
        several().into_iter().filter(|(op, case)| op.name != "slay" && case.flags.word("features").is_none())
    {
        let (packed, mut inputs) = prepare(op, &case.clone().with("cu_seqlens").flag("segment", "8"));
        let mut run = |borders: [u32; 7]| {
            inputs.insert("cu_seqlens", HostTensor::new([7], Values::U32(borders.to_vec())));
            let prepared = Prepared::of(ctx, compile(ctx, &*packed).unwrap(), &inputs, true).unwrap();
            prepared.run(ctx, &mut |_| {}).unwrap();
            let o = prepared.outputs(ctx).unwrap().remove(op.outputs[0].name).unwrap();
            cut(&o, length_axis(op.outputs, &case, op.outputs[0].name).unwrap(), 0, 20)
        };
        let right = run([0, 20, 30, 40, 50, 55, 60]);
        let wrong = run([0, 20, u32::MAX, 25, 70, 61, 4_000_000]);
        assert!(right.to_f32().iter().all(|x| x.is_finite()), "{}", op.name);
        assert_same_bits(op.name, &wrong, &right);
    }
}

fn a_backward_run_is_a_forward_run_over_reversed_tokens() {
    for (op, case) in several() {
        let (forward, inputs) = prepare(op, &case);
        let backward = case.clone().flag("direction", "backward").configure(op).unwrap();
        let mut want = cpu(&*forward, &along(op, &case, &inputs, reversed));
        let name = op.outputs[0].name;
        let axis = length_axis(op.outputs, &case, name).unwrap();
        let turned = reversed(&want.remove(name).unwrap(), axis);
        want.insert(name, turned);
        // The angles of cosformer count the tokens of a run, and so does this.
        assert_all_same(&case.name, &cpu(&*backward, &inputs), &want);
    }
}

fn both_directions_are_the_sum_of_the_two_runs() {
    for (op, case) in several() {
        let run = |direction: &str| {
            let case = case.clone().flag("direction", direction).with("cu_seqlens");
            let (operator, inputs) = prepare(op, &case);
            cpu(&*operator, &inputs).remove(op.outputs[0].name).unwrap().to_f32()
        };
        let (both, forward, backward) = (run("both"), run("forward"), run("backward"));
        assert!(both.iter().zip(forward.iter().zip(&backward)).all(|(sum, (x, y))| *sum == x + y), "{}", case.name);
    }
}

fn value_heads_read_repeated_queries_and_keys() {
    let axes = &[("B", 2), ("H", 2), ("V", 6), ("N", 50), ("D", 8), ("E", 6)];
    for (op, flags, with) in [
        ("linear", &[][..], &[][..]),
        ("linear", &[("rule", "gated")], &["g.D"]),
        ("linear", &[("rule", "gated-delta")], &["g", "beta"]),
        ("linear", &[("feature-map", "performer"), ("features", "12")], &[]),
    ] {
        let op = find(op).unwrap();
        for layout in [Layout::Bhnd, Layout::Bnhd] {
            let case = flags.iter().fold(Case::new("values", axes).layout(layout).carry(), |c, (n, v)| c.flag(n, v));
            let case = with.iter().fold(case, |case, name| case.with(name));
            let (shared, mut inputs) = prepare(op, &case);
            let got = cpu(&*shared, &inputs);
            for name in ["q", "k"] {
                let heads = if layout == Layout::Bhnd { 1 } else { 2 };
                let tensor = repeated(inputs.get(name).unwrap(), heads, 3);
                inputs.insert(name, tensor);
            }
            let mut whole = case.clone();
            whole.axes[1].1 = 6;
            assert_all_same(&format!("{flags:?} {layout}"), &got, &cpu(&*whole.configure(op).unwrap(), &inputs));
        }
    }
    // Omega of slay belongs to the heads of k, so it is repeated too.
    let op = find("slay").unwrap();
    let case = Case::new("values", axes).carry();
    let (shared, mut inputs) = prepare(op, &case);
    let got = cpu(&*shared, &inputs);
    for name in ["q", "k", "omega"] {
        let tensor = repeated(inputs.get(name).unwrap(), 1, 3);
        inputs.insert(name, tensor);
    }
    let mut whole = case.clone();
    whole.axes[1].1 = 6;
    assert_all_same("slay", &got, &cpu(&*whole.configure(op).unwrap(), &inputs));
}

fn computed_log_decays_are_those_computed_by_hand() {
    let op = find("linear").unwrap();
    let axes = &[("B", 2), ("H", 2), ("N", 40), ("D", 6)];
    for rule in ["gated", "gated-delta"] {
        let plain = Case::new("computed", axes).flag("rule", rule).carry();
        let plain = if rule == "gated" { plain } else { plain.with("beta") };
        let (computed, mut inputs) = prepare(op, &plain.clone().with("a").with("a_log").with("dt_bias"));
        let got = cpu(&*computed, &inputs);
        let [a, a_log, bias] = ["a", "a_log", "dt_bias"].map(|name| inputs.remove(name).unwrap());
        let (rates, biases) = (a_log.to_f64(), bias.to_f64());
        let log = |(at, a): (usize, f64)| {
            let head = at / 40 % 2;
            (-rates[head].exp() * (a + biases[head]).exp().ln_1p()) as f32
        };
        let g = a.to_f64().into_iter().enumerate().map(log).collect();
        inputs.insert("g", HostTensor::f32(a.shape().clone(), g));
        assert_close(rule, &got, &cpu(&*plain.with("g").configure(op).unwrap(), &inputs));
    }
}

fn a_constant_decay_and_one_beta_are_repeated_ones() {
    let op = find("linear").unwrap();
    for (layout, heads, tokens) in [(Layout::Bhnd, 1, 2), (Layout::Bnhd, 2, 1)] {
        let axes = &[("B", 2), ("H", 3), ("N", 40), ("D", 6)];
        let case = Case::new("broadcast", axes).flag("rule", "gated-delta").layout(layout).carry();
        let (few, mut inputs) = prepare(op, &case.clone().with("g.G").with("beta.N"));
        let got = cpu(&*few, &inputs);
        let g = inputs.get("g").unwrap().clone();
        let mut shape = vec![1, 1, 1];
        shape[heads] = 3;
        let g = repeated(&repeated(&g.reshape(shape), tokens, 40), 0, 2);
        let beta = repeated(inputs.get("beta").unwrap(), heads, 3);
        inputs.insert("g", g);
        inputs.insert("beta", beta);
        assert_all_same(&layout.to_string(), &got, &cpu(&*case.with("g").with("beta").configure(op).unwrap(), &inputs));
    }
}

fn a_sigmoid_and_unit_lengths_are_those_taken_before() {
    let op = find("linear").unwrap();
    for (rule, map) in [("linear", "elu1"), ("linear", "performer"), ("gated-delta", "identity")] {
        let case = Case::new("before", &[("B", 2), ("H", 2), ("N", 40), ("D", 6)]).flag("rule", rule).carry();
        let mut case = case.flag("feature-map", map);
        case.complete(op);
        let delta = rule != "linear";
        let with = case.clone().flag("l2norm", "true");
        let with = if delta { with.flag("beta-sigmoid", "true") } else { with };
        let (with, mut inputs) = prepare(op, &with);
        let got = cpu(&*with, &inputs);
        for name in ["q", "k"] {
            let tensor = inputs.get(name).unwrap();
            let unit = |row: &[f64]| {
                let length = (row.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                row.iter().map(|x| (x / length) as f32).collect::<Vec<_>>()
            };
            let values = tensor.to_f64().chunks_exact(6).flat_map(unit).collect();
            inputs.insert(name, HostTensor::f32(tensor.shape().clone(), values));
        }
        if delta {
            let beta = inputs.get("beta").unwrap();
            let values = beta.to_f64().into_iter().map(|x| (1.0 / (1.0 + (-x).exp())) as f32).collect();
            inputs.insert("beta", HostTensor::f32(beta.shape().clone(), values));
        }
        assert_close(map, &got, &cpu(&*case.configure(op).unwrap(), &inputs));
    }
}

fn an_exchanged_state_is_the_state_transposed() {
    for (op, case) in several() {
        if ["slay", "ramnet", "mamba"].contains(&op.name) {
            continue;
        }
        let case = case.with("cu_seqlens").carry();
        let (plain, mut inputs) = prepare(op, &case);
        let mut want = cpu(&*plain, &inputs);
        let turn = |tensor: &HostTensor| {
            let [b, h, rows, columns] = *tensor.shape().dims() else { panic!("a state of another rank") };
            let values = tensor.to_f32();
            let at = |i: usize| i / (rows * columns) * rows * columns + i % rows * columns + i / rows % columns;
            HostTensor::f32([b, h, columns, rows], (0..values.len()).map(|i| values[at(i)]).collect())
        };
        for map in [&mut inputs, &mut want] {
            let turned = turn(map.get("state").unwrap());
            map.insert("state", turned);
        }
        let exchanged = case.clone().flag("state-layout", "ed").configure(op).unwrap();
        assert_all_same(&case.name, &cpu(&*exchanged, &inputs), &want);
        assert_ne!(exchanged.state_basis(), plain.state_basis(), "{}", case.name);
    }
}

const SSD: [(&str, usize); 5] = [("H", 2), ("G", 1), ("N", 30), ("P", 3), ("S", 4)];

fn a_rate_of_zero_keeps_the_state() {
    let op = find("ssd").unwrap();
    let (operator, mut inputs) = prepare(op, &Case::new("zero", &SSD).with("a").flag("dt-softplus", "false").carry());
    inputs.insert("a", HostTensor::f32([2], vec![0.0; 2]));
    let got = cpu(&*operator, &inputs);
    // The state is the sum of all that is written.
    let of = |name: &str| inputs.get(name).unwrap().to_f64();
    let (x, dt, b, mut state) = (of("x"), of("dt"), of("b"), of("state"));
    for t in 0..30 {
        for (at, sum) in state.iter_mut().enumerate() {
            let (h, p, s) = (at / 12, at / 4 % 3, at % 4);
            *sum += dt[t * 2 + h] * x[(t * 2 + h) * 3 + p] * b[t * 4 + s];
        }
    }
    assert!(relative_rms(&got.get("state").unwrap().to_f64(), &state) < 1e-6);
    // The logarithm of 0 is minus infinity.
    let logs = Case::new("zero", &SSD).with("a_log").flag("dt-softplus", "false").carry().configure(op).unwrap();
    inputs.remove("a");
    inputs.insert("a_log", HostTensor::f32([2], vec![f32::NEG_INFINITY; 2]));
    assert_all_same("a_log", &cpu(&*logs, &inputs), &got);
}

fn steps_are_limited_after_softplus_and_offset() {
    let op = find("ssd").unwrap();
    let case = Case::new("limited", &SSD).with("a").with("dt_bias").carry();
    let limited = case.clone().flag("dt-min", "0.012").flag("dt-max", "0.02").flag("dt-offset", "0.003");
    let (operator, mut inputs) = prepare(op, &limited);
    let got = cpu(&*operator, &inputs);
    let bias = inputs.remove("dt_bias").unwrap().to_f64();
    let mut counts = [0; 3];
    let mut step = |(at, dt): (usize, f64)| {
        let step = (dt + bias[at % 2]).exp().ln_1p() + 0.003;
        counts[if step < 0.012 { 0 } else { 1 + usize::from(step > 0.02) }] += 1;
        step.clamp(0.012, 0.02) as f32
    };
    let dt = inputs.get("dt").unwrap();
    let steps = HostTensor::f32(dt.shape().clone(), dt.to_f64().into_iter().enumerate().map(&mut step).collect());
    assert!(counts.iter().all(|count| *count > 0), "each limit and neither of them: {counts:?}");
    inputs.insert("dt", steps);
    let by_hand = Case::new("by_hand", &SSD).with("a").carry().flag("dt-softplus", "false").configure(op).unwrap();
    assert_close("limited", &got, &cpu(&*by_hand, &inputs));
}

fn a_skip_per_channel_is_one_per_head_repeated() {
    let op = find("ssd").unwrap();
    let case = Case::new("skip", &SSD).with("a").with("z").carry();
    let (one, mut inputs) = prepare(op, &case.clone().with("d"));
    let want = cpu(&*one, &inputs);
    let d = repeated(&inputs.get("d").unwrap().clone().reshape([2, 1]), 1, 3);
    inputs.insert("d", d);
    assert_close("skip", &cpu(&*case.with("d.P").configure(op).unwrap(), &inputs), &want);
}
