//! Mamba-2's recurrence: what is particular to it.

use libtest_mimic::Trial;

use subquad::catalog::case::Case;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::request::Request;
use subquad::catalog::spec::Op;
use subquad::gpu::{Caps, readback};
use subquad::operator::channels::Channels;
use subquad::operator::mode::Mode;
use subquad::operator::steps::Steps;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::ssd::{Config, OP, convolved};
use subquad::ops::{conv1d, linear};
use subquad::tensor::{DType, HostTensor, Layout, Shape, TensorMap};
use subquad::verify::tolerance;

use crate::support::{Runner, assert_matches, backends, backends_for, context, test};

fn op() -> &'static Op {
    &OP
}

/// What a configuration reads, drawn as `sample` does, the state too where it is carried.
fn inputs(c: &Config) -> TensorMap {
    let axes = [("B", c.batch), ("N", c.length), ("H", c.heads), ("P", c.dim), ("G", c.groups), ("S", c.states)];
    let mut case = Case::new("inputs", &axes).dtype(c.dtype).with(if c.a_log { "a_log" } else { "a" });
    case.seed = 5;
    case.carry = c.mode.carry;
    let given = [("d", c.d), ("z", c.z), ("dt_bias", c.dt_bias)];
    case.with.extend(given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name));
    random::inputs(op(), &case).unwrap()
}

/// What it is by its definition: the gated rule over other names.
fn it_is_gated_linear_attention_with_steps_in_values_and_decays() {
    let c = Config { batch: 2, groups: 2, steps: Steps::plain(), ..Config::new(90, 4, 10, 20) };
    let mut all = inputs(&c);
    let positive = all.get("dt").unwrap().to_f32().into_iter().map(f32::abs).collect();
    all.insert("dt", HostTensor::f32([2, 90, 4], positive));
    let [dt, a, x] = ["dt", "a", "x"].map(|name| all.get(name).unwrap().to_f32());
    let mut gated = TensorMap::new();
    // q and k of a group go to each of its heads.
    for (name, from) in [("q", "c"), ("k", "b")] {
        let rows = all.get(from).unwrap().to_f32();
        let each = rows.chunks_exact(20).flat_map(|row| [row, row]).flatten().copied().collect();
        gated.insert(name, HostTensor::f32([2, 90, 4, 20], each));
    }
    let v = x.chunks_exact(10).zip(&dt).flat_map(|(row, dt)| row.iter().map(move |x| x * dt)).collect();
    gated.insert("v", HostTensor::f32([2, 90, 4, 10], v));
    let g = dt.iter().enumerate().map(|(i, dt)| dt * a[i % 4]).collect();
    gated.insert("g", HostTensor::f32([2, 90, 4], g));
    let qkv = subquad::operator::qkv::Qkv::new().batch(2).heads(4).len(90).dim(20).dim_v(10).layout(Layout::Bnhd);
    let head = linear::Rule::Gated(linear::Gate::Head);
    let rule = linear::Config { scale: Some(1.0), ..linear::Config::new(qkv).rule(head) };
    for (backend, run) in backends() {
        let (got, want) = (run(&c, &all), run(&rule, &gated));
        let error = tolerance::relative_rms(&got.get("y").unwrap().to_f64(), &want.get("o").unwrap().to_f64());
        assert!(error < 1e-6, "{backend}: {error:.2e}");
    }
}

/// Large steps forget all at once, tiny ones almost nothing: both ends of softplus.
fn large_and_tiny_steps() {
    let c = Config { dt_bias: true, mode: Mode::new().carry(), ..Config::new(70, 2, 6, 8) };
    for bias in [200.0, 30.0, -8.0, -16.0, -40.0, -90.0] {
        let mut all = inputs(&c);
        all.insert("dt_bias", HostTensor::f32([2], vec![bias; 2]));
        for (backend, run) in backends() {
            let got = run(&c, &all);
            assert!(got.iter().all(|(_, t)| t.to_f32().iter().all(|x| x.is_finite())), "{backend}, {bias}");
            // The definition takes ln(1 + e^x) as it is written: its state of tiny steps is what was given.
            assert_matches(&format!("{backend}, a bias of {bias}"), &c, &all, &got);
        }
    }
}

/// Rates at the end of f32 leave nothing of a state after any step, and all of it after a step of 0.
fn rates_at_the_end_of_f32_are_right() {
    for (name, rate) in [("a", -3e38), ("a_log", 89.0), ("a_log", 1e30)] {
        let base = Config { a_log: name == "a_log", mode: Mode::new().carry(), ..Config::new(70, 2, 6, 8) };
        let c = Config { steps: Steps::plain(), ..base };
        let mut all = inputs(&c);
        all.insert(name, HostTensor::f32([2], vec![rate; 2]));
        let steps = (0..140).map(|i| if i % 7 == 3 { 0.5 } else { 0.0 }).collect();
        all.insert("dt", HostTensor::f32([1, 70, 2], steps));
        for (backend, run) in backends() {
            let got = run(&c, &all);
            assert!(got.iter().all(|(_, t)| t.to_f32().iter().all(|x| x.is_finite())), "{backend}, {name} {rate}");
            assert_matches(&format!("{backend}, {name} {rate}"), &c, &all, &got);
        }
    }
}

fn refused_before_anything_runs() {
    let base = Config::new(8, 4, 6, 5);
    for (config, sentence) in [
        (
            Config { groups: 3, ..base.clone() },
            "ssd: tensor `b`: expected groups G that divide the 4 heads, found 3 groups",
        ),
        (Config { states: 257, ..base.clone() }, "ssd: tensor `b`: expected at most 256 states S, found 257"),
        (Config { dim: 0, ..base.clone() }, "ssd: `P`: expected 1 or more, found 0"),
        (
            Config { mode: base.mode.decode().carry(), ..base.clone() },
            "ssd: tensor `x`: expected N = 1 to decode, found N = 8",
        ),
        (
            Config { mode: Mode { decode: true, ..Mode::new() }, ..Config::new(1, 4, 6, 5) },
            "ssd: `decode` needs the causal form with a carried state",
        ),
        (Config { dtype: DType::U32, ..base.clone() }, "ssd: tensor `x`: expected f32 or f16, found u32"),
        (Config { mode: base.mode.segment(0), ..base.clone() }, "ssd: `segment`: expected 1 or more, found 0"),
    ] {
        assert_eq!(config.program(&Caps::portable()).unwrap_err().to_string(), sentence);
    }
}

fn tensors_that_do_not_fit_are_refused_by_name() {
    let base: [(&str, &[usize]); 5] =
        [("x", &[2, 8, 4, 6]), ("dt", &[2, 8, 4]), ("a", &[4]), ("b", &[2, 8, 2, 5]), ("c", &[2, 8, 2, 5])];
    let refuse = |changed: (&str, &[usize])| {
        let given = base.iter().filter(|(name, _)| *name != changed.0).chain([&changed]);
        let shapes: Vec<(String, Shape)> =
            given.map(|(name, dims)| ((*name).to_owned(), Shape::from(*dims))).filter(|(_, s)| s.rank() > 0).collect();
        let (flags, layout, dtype) = (Flags::new(), Layout::Bhnd, DType::F32);
        let request = Request { flags: &flags, shapes: &shapes, layout, dtype, carry: false };
        OP.configure(&request).err().unwrap().to_string()
    };
    for (changed, sentence) in [
        (("dt", &[2, 8, 3][..]), "ssd: tensor `dt`: expected [2, 8, 4] with x and b as they are, found [2, 8, 3]"),
        (("c", &[2, 8, 1, 5]), "ssd: tensor `c`: expected [2, 8, 2, 5] with x and b as they are, found [2, 8, 1, 5]"),
        (("a", &[3]), "ssd: tensor `a`: expected [4] with x and b as they are, found [3]"),
        (("d", &[4, 5]), "ssd: tensor `d`: expected [4, 6] with x and b as they are, found [4, 5]"),
        (("d", &[4, 6, 1]), "ssd: tensor `d`: expected rank 1 or 2 [H] or [H, P], found rank 3 [4, 6, 1]"),
        (("z", &[2, 8, 4, 5]), "ssd: tensor `z`: expected [2, 8, 4, 6] with x and b as they are, found [2, 8, 4, 5]"),
        (("a_log", &[4]), "ssd: tensor `a`: expected none beside `a_log`, found [4]"),
        (("b", &[2, 8, 3, 5]), "ssd: tensor `c`: expected [2, 8, 3, 5] with x and b as they are, found [2, 8, 2, 5]"),
    ] {
        assert_eq!(refuse(changed), sentence);
    }
}

/// The definition's own state is what it says, by hand.
fn two_tokens_by_hand() {
    let c = Config { steps: Steps::plain(), d: true, mode: Mode::new().carry(), ..Config::new(2, 1, 1, 2) };
    let tensor = |shape: &[usize], values: &[f32]| HostTensor::f32(shape.to_vec(), values.to_vec());
    let all: TensorMap = [
        ("x", tensor(&[1, 2, 1, 1], &[2.0, 3.0])),
        ("dt", tensor(&[1, 2, 1], &[0.5, 0.25])),
        ("a", tensor(&[1], &[-2.0])),
        ("b", tensor(&[1, 2, 1, 2], &[1.0, -1.0, 0.5, 2.0])),
        ("c", tensor(&[1, 2, 1, 2], &[1.0, 1.0, 2.0, 1.0])),
        ("d", tensor(&[1], &[10.0])),
        ("state", tensor(&[1, 1, 1, 2], &[4.0, 8.0])),
    ]
    .into_iter()
    .map(|(name, t)| (name.to_owned(), t))
    .collect();
    let (e1, e2) = ((-1.0f64).exp(), (-0.5f64).exp());
    let first = [4.0 * e1 + 1.0, 8.0 * e1 - 1.0];
    let second = [first[0] * e2 + 0.375, first[1] * e2 + 1.5];
    let want = [first[0] + first[1] + 20.0, 2.0 * second[0] + second[1] + 30.0, second[0], second[1]];
    let got = c.reference(&all, Precision::F64, Rows::All);
    for (got, want) in got[0].1.iter().chain(&got[1].1).zip(want) {
        assert!((got - want).abs() < 1e-12, "{got}, expected {want}");
    }
}

/// The tensors x, b and c side by side, `[B, N, C]`.
fn joined(c: &Config, tokens: &TensorMap) -> HostTensor {
    let each = ["x", "b", "c"].map(|name| tokens.get(name).unwrap().to_f32());
    let rows = c.batch * c.length;
    let row = |row: usize| each.iter().flat_map(move |all| all.chunks_exact(all.len() / rows).nth(row).unwrap());
    let values: Vec<f32> = (0..rows).flat_map(row).copied().collect();
    HostTensor::f32([c.batch, c.length, values.len() / rows], values).cast(c.dtype)
}

/// The tensors that lie side by side.
fn apart(c: &Config, joined: &HostTensor) -> TensorMap {
    let (inner, shared, values) = (c.heads * c.dim, c.groups * c.states, joined.to_f32());
    let shapes =
        [("x", 0, [c.heads, c.dim]), ("b", inner, [c.groups, c.states]), ("c", inner + shared, [c.groups, c.states])];
    let part = |(name, first, [heads, dim]): (&str, usize, [usize; 2])| {
        let rows = values.chunks_exact(inner + 2 * shared);
        let own = rows.flat_map(|row| &row[first..][..heads * dim]).copied().collect();
        (name.to_owned(), HostTensor::f32([c.batch, c.length, heads, dim], own).cast(c.dtype))
    };
    shapes.map(part).into_iter().collect()
}

/// The convolution in front of a configuration, as an operator of its own.
fn conv1d_of(c: &convolved::Config) -> conv1d::Config {
    let shape = Channels::new(c.step.batch, c.channels(), c.step.length).dtype(c.step.dtype);
    conv1d::Config {
        bias: c.conv.bias,
        activation: if c.conv.silu { conv1d::Activation::Silu } else { conv1d::Activation::None },
        layout: conv1d::ChannelLayout::Bnc,
        mode: c.step.mode,
        ..conv1d::Config::new(shape, c.conv.width)
    }
}

/// The weights of the convolution, drawn.
fn taps(c: &convolved::Config) -> [HostTensor; 2] {
    let draw = |stream, shape: Shape| HostTensor::f32(shape.clone(), random::normal(9, stream, shape.count()));
    [draw(0, [c.channels(), c.conv.width].into()), draw(1, [c.channels()].into())]
}

/// Runs the convolution of a configuration, then its step, both on tensors and states in `all`.
fn one_after_another(run: &Runner, c: &convolved::Config, all: &TensorMap) -> TensorMap {
    let mut inputs = TensorMap::new();
    inputs.insert("x", joined(&c.step, all));
    let [weight, bias] = taps(c);
    inputs.insert("weight", weight);
    if c.conv.bias {
        inputs.insert("bias", bias);
    }
    all.get("conv_state").into_iter().for_each(|state| inputs.insert("state", state.clone()));
    let mut convolved = run(&conv1d_of(c), &inputs);
    let mut all = all.clone();
    apart(&c.step, convolved.get("y").unwrap()).into_iter().for_each(|(name, tensor)| all.insert(name, tensor));
    let mut outputs = run(&c.step, &all);
    convolved.remove("state").into_iter().for_each(|state| outputs.insert("conv_state", state));
    outputs
}

/// A prompt runs as conv1d and ssd; from their states tokens run in one dispatch and in two, with the same results.
fn a_token_with_its_convolution_is_conv1d_and_then_a_step() {
    let plain = |b, h, p, g, s| Config { batch: b, groups: g, a_log: true, ..Config::new(1, h, p, s) };
    let every = |c: Config| Config { d: true, z: true, dt_bias: true, ..c };
    let half = |c: Config| Config { dtype: DType::F16, ..c };
    for (step, width, bias, silu) in [
        (every(plain(2, 6, 12, 2, 20)), 4, true, true),
        (plain(1, 4, 33, 1, 65), 3, false, true),
        (every(plain(3, 3, 5, 3, 7)), 2, true, false),
        (plain(1, 2, 16, 2, 16), 1, true, true),
        (half(every(plain(2, 6, 12, 2, 20))), 4, true, true),
    ] {
        let mut fused = convolved::Config::new(step, width);
        (fused.conv.bias, fused.conv.silu) = (bias, silu);
        let dtype = fused.step.dtype;
        for (backend, run) in backends_for(dtype) {
            let what = format!("{backend}, {width} taps, {dtype}");
            let prompt = Config { length: 5, mode: Mode::new().carry(), ..fused.step.clone() };
            let mut states =
                one_after_another(&run, &convolved::Config { step: prompt.clone(), ..fused }, &inputs(&prompt));
            for token in 0..3 {
                let mut all = inputs(&Config { a_log: true, ..fused.step.clone() });
                let moved = random::normal(20 + token, 3, fused.step.batch * fused.step.heads * fused.step.dim);
                all.insert("x", HostTensor::f32(all.get("x").unwrap().shape().clone(), moved).cast(dtype));
                for name in ["state", "conv_state"] {
                    states.get(name).into_iter().for_each(|state| all.insert(name, state.clone()));
                }
                let two = one_after_another(&run, &fused, &all);
                let [weight, bias] = taps(&fused);
                all.insert("conv_weight", weight);
                if fused.conv.bias {
                    all.insert("conv_bias", bias);
                }
                let one = run(&fused, &all);
                for (name, tensor) in two.iter() {
                    let error = tolerance::relative_rms(&one.get(name).unwrap().to_f64(), &tensor.to_f64());
                    // conv1d rounds its outputs to f16.
                    let most = if name == "conv_state" {
                        0.0
                    } else if dtype == DType::F16 {
                        2e-3
                    } else {
                        1e-6
                    };
                    assert!(error <= most, "{what}, token {token}, {name}: {error:.2e}");
                }
                assert_matches(&what, &fused, &all, &one);
                states = one;
            }
        }
    }
}

/// Rows of a projection bind as they are, and a recording runs again and again over the states in place.
fn rows_of_a_projection_are_bound_and_states_updated_in_place() {
    let Some(ctx) = context() else { return };
    let step = Config { batch: 3, groups: 2, d: true, ..Config::new(1, 4, 20, 24) };
    let fused = convolved::Config::new(step.clone(), 4);
    let plan = fused.plan(ctx).unwrap();
    assert_eq!(plan.program().steps().len(), 1, "dispatches");
    let all = inputs(&Config { mode: Mode::new(), ..step });
    let [conv_weight, _] = taps(&fused);
    let values = |name: &str| all.get(name).unwrap().to_f32();
    let (a, d) = (values("a"), values("d"));
    let (taps, given) = (conv_weight.to_f32(), joined(&fused.step, &all));
    let weights = convolved::Weights { a: Some(&a), d: Some(&d), conv_weight: Some(&taps), ..Default::default() };
    let weights = plan.upload_weights(weights).unwrap();
    let upload = |name: &str, tensor: &HostTensor| readback::upload(ctx, name, tensor).unwrap();
    let count = given.shape().count();
    let (xbc, dt) = (upload("xbc", &given.reshape([count])), upload("dt", all.get("dt").unwrap()));
    let y = readback::empty(ctx, "y", [3, 1, 4, 20], DType::F32).unwrap();
    let state = plan.new_state().unwrap();
    let conv_state = conv1d_of(&fused).plan(ctx).unwrap().new_state().unwrap();
    let tensors = convolved::Tensors::new(&xbc, &dt, &weights, &y, &state);
    let recording = plan.bind(convolved::Tensors { conv_state: Some(&conv_state), ..tensors }).unwrap();
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        (0..5).for_each(|_| recording.encode_in(&mut pass));
    }
    readback::submit(ctx, encoder).unwrap();
    let mut all = all;
    all.insert("conv_weight", conv_weight);
    let mut wanted = TensorMap::new();
    for _ in 0..5 {
        wanted = fused.cpu(&all).unwrap();
        ["state", "conv_state"].into_iter().for_each(|name| all.insert(name, wanted.get(name).unwrap().clone()));
    }
    for (name, tensor) in [("y", &y), ("state", &state), ("conv_state", &conv_state)] {
        let found = readback::read_blocking(ctx, tensor).unwrap();
        let error = tolerance::relative_rms(&found.to_f64(), &wanted.get(name).unwrap().to_f64());
        assert!(error < 1e-6, "{name}: {error:.2e}");
    }
}

fn convolutions_that_no_step_takes_are_refused() {
    let step = Config::new(1, 4, 6, 5);
    let fused = convolved::Config::new(step.clone(), 4);
    let mut wide = fused.clone();
    wide.conv.width = 33;
    for (config, sentence) in [
        (wide, "ssd: tensor `conv_weight`: expected a width W of 1 to 32, found 33"),
        (
            convolved::Config { step: Config { length: 8, ..step }, ..fused },
            "ssd: `conv_weight` needs --decode: in front of more than one token, run conv1d",
        ),
    ] {
        assert_eq!(config.program(&Caps::portable()).unwrap_err().to_string(), sentence);
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(it_is_gated_linear_attention_with_steps_in_values_and_decays),
        test(large_and_tiny_steps),
        test(rates_at_the_end_of_f32_are_right),
        test(refused_before_anything_runs),
        test(tensors_that_do_not_fit_are_refused_by_name),
        test(two_tokens_by_hand),
        test(a_token_with_its_convolution_is_conv1d_and_then_a_step),
        test(rows_of_a_projection_are_bound_and_states_updated_in_place),
        test(convolutions_that_no_step_takes_are_refused),
    ]
}
