//! The causal convolution: what is particular to it.

use libtest_mimic::Trial;
use subquad::catalog::case::Case;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::request::Request;
use subquad::gpu::Caps;
use subquad::operator::channels::Channels;
use subquad::operator::mode::Mode;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::conv1d::{Activation, Config, OP};
use subquad::tensor::{Access, DType, HostTensor, Layout, Shape, TensorMap};

use crate::pieces::assert_same_bits_in_pieces;
use crate::support::{backends, backends_for, roomy, test};

/// Random tensors that a configuration reads, the state not among them.
fn inputs(c: &Config) -> TensorMap {
    let slots = c.slots();
    let parts = slots.iter().filter(|s| s.access == Access::Read).flat_map(|s| s.parts.iter().map(|p| (s.dtype, p)));
    let random = |(at, (dtype, part)): (usize, (DType, &subquad::tensor::Part))| {
        let values = random::normal(11, at as u64, part.shape.count());
        (part.name.to_owned(), HostTensor::f32(part.shape.clone(), values).cast(dtype))
    };
    parts.enumerate().map(random).collect()
}

/// Tap `w` of the window is input `n - W + 1 + w`: one token alone shows the weights, last first.
fn one_input_gives_the_weights_backwards() {
    let c = Config { activation: Activation::None, ..Config::new(Channels::new(1, 2, 6), 3) };
    let mut all = TensorMap::new();
    let x = [[0.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0, 0.0, 0.0]].concat();
    all.insert("x", HostTensor::f32([1, 2, 6], x));
    all.insert("weight", HostTensor::f32([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let want = [[0.0, 3.0, 2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 12.0, 10.0, 8.0]].concat();
    for (backend, run) in backends() {
        assert_eq!(run(&c, &all).get("y").unwrap().to_f32(), want, "{backend}");
    }
}

/// At any cut, with a segment or without: an output is a sum of the same numbers.
fn pieces_equal_the_whole_bit_for_bit() {
    for (width, dtype) in [(1, DType::F32), (2, DType::F32), (4, DType::F32), (8, DType::F32), (5, DType::F16)] {
        let axes = [("B", 2), ("C", 3), ("N", 1300), ("W", width)];
        let case = Case::new("any cut", &axes).with("bias").dtype(dtype).carry();
        for (backend, run) in backends_for(dtype) {
            assert_same_bits_in_pieces(&OP, &case, &[0, 1, 2, 5, 21, 22, 290, 1299, 1300], backend, &run);
        }
    }
}

fn the_state_is_the_last_inputs_oldest_first() {
    let c = Config { mode: Mode::new().carry(), ..Config::new(Channels::new(1, 2, 2), 5) };
    let mut all = inputs(&c);
    all.insert("x", HostTensor::f32([1, 2, 2], vec![5.0, 6.0, 50.0, 60.0]));
    all.insert("state", HostTensor::f32([1, 2, 4], vec![1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]));
    for (backend, run) in backends() {
        let state = run(&c, &all).remove("state").unwrap().to_f32();
        assert_eq!(state, [3.0, 4.0, 5.0, 6.0, 30.0, 40.0, 50.0, 60.0], "{backend}");
    }
}

/// Far outside what e^x can hold.
fn the_activation_of_large_sums_is_finite() {
    let c = Config::new(Channels::new(1, 1, 4), 1);
    let mut all = TensorMap::new();
    all.insert("x", HostTensor::f32([1, 1, 4], vec![-1e30, -500.0, 500.0, 1e30]));
    all.insert("weight", HostTensor::f32([1, 1], vec![1.0]));
    for (backend, run) in backends() {
        assert_eq!(run(&c, &all).get("y").unwrap().to_f32(), [0.0, 0.0, 500.0, 1e30], "{backend}");
    }
    assert_eq!(c.reference(&all, Precision::F32, Rows::All)[0].1, [0.0, 0.0, 500.0, f64::from(1e30f32)]);
}

fn refused_before_anything_runs() {
    let base = Config::new(Channels::new(1, 4, 8), 4);
    for (config, sentence) in [
        (Config { width: 0, ..base.clone() }, "conv1d: tensor `weight`: expected a width W of 1 to 8, found 0"),
        (Config { width: 9, ..base.clone() }, "conv1d: tensor `weight`: expected a width W of 1 to 8, found 9"),
        (Config { shape: base.shape.length(0), ..base.clone() }, "conv1d: `N`: expected 1 or more, found 0"),
        (
            Config { mode: Mode { decode: true, ..base.mode }, ..base.clone() },
            "conv1d: `decode` needs the causal form with a carried state",
        ),
        (
            Config { mode: base.mode.decode().carry(), ..base.clone() },
            "conv1d: tensor `x`: expected N = 1 to decode, found N = 8",
        ),
        (
            Config { shape: base.shape.dtype(DType::F16), ..base.clone() },
            "conv1d: f16 storage needs the device feature SHADER_F16, which this device was made without",
        ),
        (
            Config { shape: Channels::new(1, 2, (1 << 30) + 1), ..base },
            "conv1d: tensor `x` (tokens) needs 1073741825, the limit of this device is 1073741824",
        ),
    ] {
        assert_eq!(config.program(&Caps::portable()).unwrap_err().to_string(), sentence);
    }
}

fn tensors_that_do_not_fit_shapes_or_flags_are_refused_by_name() {
    let refuse = |given: &[(&str, &[usize])], typed: &[(&str, &str)]| {
        let shape = |(name, dims): &(&str, &[usize])| ((*name).to_owned(), Shape::from(*dims));
        let shapes: Vec<_> = given.iter().map(shape).collect();
        let flags = Flags::from_pairs(typed);
        let (layout, dtype) = (Layout::Bhnd, DType::F32);
        let request = Request { flags: &flags, shapes: &shapes, layout, dtype, carry: false };
        OP.configure(&request).err().unwrap().to_string()
    };
    let x: (&str, &[usize]) = ("x", &[1, 4, 8]);
    for (given, typed, sentence) in [
        (&[x][..], &[][..], "conv1d: tensor `weight`: expected [C, W], found none (given: x)"),
        (&[x, ("weight", &[3, 4])], &[], "conv1d: tensor `weight`: expected C = 4 channels as in x, found [3, 4]"),
        (&[x, ("weight", &[4, 9])], &[], "conv1d: tensor `weight`: expected a width W of 1 to 8, found 9"),
        (&[x, ("weight", &[4])], &[], "conv1d: tensor `weight`: expected rank 2 [C, W], found rank 1 [4]"),
        (
            &[x, ("weight", &[4, 4]), ("bias", &[5])],
            &[],
            "conv1d: tensor `bias`: expected C = 4 channels as in x, found [5]",
        ),
        (
            &[x, ("weight", &[4, 4])],
            &[("activation", "relu")],
            "conv1d: --activation: expected none or silu, found `relu`",
        ),
        (
            &[x, ("weight", &[4, 4])],
            &[("decode", "true"), ("segment", "4")],
            "conv1d: --segment cannot be used with decode, which takes one token",
        ),
    ] {
        assert_eq!(refuse(given, typed), sentence);
    }
}

fn one_token_is_one_dispatch_and_nothing_takes_workspace() {
    let base = Config { bias: true, mode: Mode::new().carry(), ..Config::new(Channels::new(2, 1024, 1), 4) };
    let decode = Config { mode: base.mode.decode(), ..base.clone() }.program(&roomy()).unwrap();
    assert_eq!((decode.steps().len(), decode.workspace_bytes()), (1, 0));
    let long = Config { shape: base.shape.length(65536), ..base };
    let program = long.program(&roomy()).unwrap();
    assert_eq!((program.steps().len(), program.workspace_bytes()), (2, 0));
    assert!(program.cost().bytes() < 1.01 * long.cost().bytes(), "{:?}", program.cost());
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(one_input_gives_the_weights_backwards),
        test(pieces_equal_the_whole_bit_for_bit),
        test(the_state_is_the_last_inputs_oldest_first),
        test(the_activation_of_large_sums_is_finite),
        test(refused_before_anything_runs),
        test(tensors_that_do_not_fit_shapes_or_flags_are_refused_by_name),
        test(one_token_is_one_dispatch_and_nothing_takes_workspace),
    ]
}
