//! The depthwise convolution: what is particular to it.

use libtest_mimic::Trial;
use subquad::catalog::case::Case;
use subquad::catalog::flags::Flags;
use subquad::catalog::random;
use subquad::catalog::request::Request;
use subquad::gpu::Caps;
use subquad::operator::channels::Channels;
use subquad::operator::mode::{Direction, Mode};
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::conv1d::{Activation, ChannelLayout, Config, OP, Padding};
use subquad::tensor::{Access, DType, HostTensor, Layout, Shape, TensorMap, Values};

use crate::bytes::moved_by;
use crate::pieces::assert_same_bits_in_pieces;
use crate::support::{assert_same_bits, backends, backends_for, context, cut, roomy, test};

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
    let cases = [
        (1, DType::F32, Layout::Bhnd, "1"),
        (2, DType::F32, Layout::Bhnd, "1"),
        (4, DType::F32, Layout::Bhnd, "1"),
        (8, DType::F32, Layout::Bnhd, "1"),
        (3, DType::F32, Layout::Bhnd, "6"),
        (5, DType::F16, Layout::Bhnd, "1"),
    ];
    for (width, dtype, layout, dilation) in cases {
        let axes = [("B", 2), ("C", 3), ("N", 1300), ("W", width)];
        let case = Case::new("any cut", &axes).with("bias").dtype(dtype).layout(layout).carry();
        let case = case.flag("dilation", dilation);
        for (backend, run) in backends_for(dtype) {
            assert_same_bits_in_pieces(&OP, &case, &[0, 1, 2, 5, 21, 22, 290, 1299, 1300], backend, &run);
        }
    }
}

/// The inputs of a row behind so many zeros, or before them if the number is negative.
fn shifted(x: &HostTensor, zeros: isize) -> HostTensor {
    let [b, c, n] = *x.shape().dims() else { panic!("three axes") };
    let more = vec![0.0; zeros.unsigned_abs()];
    let row = |row: &[f32]| if zeros < 0 { [row, &more].concat() } else { [&more, row].concat() };
    HostTensor::f32([b, c, n + more.len()], x.to_f32().chunks(n).flat_map(row).collect())
}

/// Half of the taps, the larger half if one is over, lie behind the token.
fn padding_same_is_the_causal_form_shifted() {
    for (width, dilation, length, right) in [(1, 1, 24, 0), (4, 1, 24, 2), (5, 1, 27, 2), (4, 3, 24, 5), (32, 1, 8, 16)]
    {
        let same =
            Config { bias: true, dilation, padding: Padding::Same, ..Config::new(Channels::new(2, 3, length), width) };
        let all = inputs(&same);
        let causal = Config { padding: Padding::Causal, shape: same.shape.length(length + right), ..same.clone() };
        let mut longer = all.clone();
        longer.insert("x", shifted(all.get("x").unwrap(), -(right as isize)));
        for (backend, run) in backends() {
            let [whole, y] = [run(&causal, &longer), run(&same, &all)];
            let want = cut(whole.get("y").unwrap(), 2, right, length + right);
            assert_same_bits(&format!("{backend}, W={width}, K={dilation}"), &want, y.get("y").unwrap());
        }
    }
}

fn dilated_taps_are_taps_with_zeros_between_them() {
    for (length, mode) in [(64, Mode::new().carry()), (61, Mode::new()), (5, Mode::new().carry())] {
        let dilated = Config { dilation: 4, mode, ..Config::new(Channels::new(2, 3, length), 3) };
        let mut all = inputs(&dilated);
        all.insert("state", HostTensor::f32([2, 3, 8], random::normal(3, 0, 48)));
        let near = Config { dilation: 1, width: 9, ..dilated.clone() };
        let mut between = all.clone();
        let taps: Vec<f32> = all.get("weight").unwrap().to_f32();
        let spread = |(at, tap): (usize, &f32)| vec![*tap; 1].into_iter().chain(vec![0.0; if at == 2 { 0 } else { 3 }]);
        let spread = taps.chunks(3).flat_map(|taps| taps.iter().enumerate().flat_map(spread)).collect();
        between.insert("weight", HostTensor::f32([3, 9], spread));
        for (backend, run) in backends() {
            let [want, found] = [run(&near, &between), run(&dilated, &all)];
            for (name, tensor) in want.iter() {
                assert_same_bits(&format!("{backend}, N={length}: {name}"), tensor, found.get(name).unwrap());
            }
        }
    }
}

/// The tokens of each sequence, of which some have none, others fewer than the state has inputs.
const BORDERS: [u32; 8] = [0, 0, 2, 13, 13, 40, 63, 64];

fn packed_sequences_are_runs_of_their_own() {
    let base = Config { bias: true, ..Config::new(Channels::new(1, 8, 64), 4) };
    let last = Config { layout: ChannelLayout::Bnc, ..base.clone() };
    for (what, plain) in [
        ("carried", Config { mode: Mode::new().carry(), ..base.clone() }),
        ("same", Config { padding: Padding::Same, ..base.clone() }),
        ("channels last", Config { mode: Mode::new().carry(), ..last.clone() }),
        ("dilated", Config { dilation: 3, mode: Mode::new().carry(), ..last }),
    ] {
        let (axis, count) = (if plain.layout == ChannelLayout::Bcn { 2 } else { 1 }, BORDERS.len() - 1);
        let packed = Config { mode: plain.mode.sequences(count), ..plain.clone() };
        let mut all = inputs(&plain);
        all.insert("cu_seqlens", HostTensor::new([count + 1], Values::U32(BORDERS.to_vec())));
        let states = HostTensor::f32([count, 8, plain.span()], random::normal(5, 1, count * 8 * plain.span()));
        all.insert("state", states.clone());
        for (backend, run) in backends() {
            let whole = run(&packed, &all);
            for (at, ends) in BORDERS.windows(2).map(|ends| [ends[0] as usize, ends[1] as usize]).enumerate() {
                let told = format!("{backend}, {what}, sequence {at}");
                let state = |tensor: &HostTensor| cut(tensor, 0, at, at + 1);
                if ends[0] == ends[1] {
                    let kept = whole.get("state");
                    kept.into_iter().for_each(|kept| assert_same_bits(&told, &state(&states), &state(kept)));
                    continue;
                }
                let one = Config { shape: plain.shape.length(ends[1] - ends[0]), ..plain.clone() };
                let mut own = all.clone();
                own.insert("x", cut(all.get("x").unwrap(), axis, ends[0], ends[1]));
                own.insert("state", state(&states));
                for (name, tensor) in run(&one, &own).iter() {
                    let all = whole.get(name).unwrap();
                    let found = if name == "y" { cut(all, axis, ends[0], ends[1]) } else { state(all) };
                    assert_same_bits(&format!("{told}: {name}"), tensor, &found);
                }
            }
        }
    }
}

/// Kernels stay within their tensors, and within time, whatever the borders are: a plan does not see the values.
fn borders_that_are_none_end_a_run_too() {
    let Some(ctx) = context() else { return };
    for layout in [ChannelLayout::Bcn, ChannelLayout::Bnc] {
        let plain = Config { layout, mode: Mode::new().carry(), ..Config::new(Channels::new(1, 8, 64), 4) };
        let mut all = inputs(&plain);
        all.insert("cu_seqlens", HostTensor::new([4], Values::U32(vec![9, u32::MAX, 0, 7])));
        all.insert("state", HostTensor::f32([3, 8, 3], vec![0.0; 72]));
        let c = Config { mode: plain.mode.sequences(3), ..plain };
        let (stated, [read, written]) = moved_by(ctx, c.program(ctx.caps()).unwrap(), &all);
        assert!(read <= stated.bytes_read && written == stated.bytes_written, "{read} and {written}, {stated:?}");
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
        (Config { width: 0, ..base.clone() }, "conv1d: tensor `weight`: expected a width W of 1 to 32, found 0"),
        (Config { width: 33, ..base.clone() }, "conv1d: tensor `weight`: expected a width W of 1 to 32, found 33"),
        (Config { shape: base.shape.length(0), ..base.clone() }, "conv1d: `N`: expected 1 or more, found 0"),
        (
            Config { mode: Mode { decode: true, ..base.mode }, ..base.clone() },
            "conv1d: `decode` needs the causal form with a carried state",
        ),
        (Config { dilation: 0, ..base.clone() }, "conv1d: `dilation`: expected 1 to 357913941 for 4 taps, found 0"),
        (
            Config { dilation: 1 << 29, ..base.clone() },
            "conv1d: `dilation`: expected 1 to 357913941 for 4 taps, found 536870912",
        ),
        (
            Config { padding: Padding::Same, mode: base.mode.carry(), ..base.clone() },
            "conv1d: `padding` same cannot be used with a state or decode, because outputs depend on later inputs",
        ),
        (
            Config { shape: Channels::new(2, 4, 8), mode: base.mode.sequences(2), ..base.clone() },
            "conv1d: tensor `x`: expected batch B = 1 with cu_seqlens, found 2",
        ),
        (
            Config { shape: base.shape.length(1), mode: base.mode.decode().sequences(1), ..base.clone() },
            "conv1d: tensor `cu_seqlens`: expected none with decode, found [2]",
        ),
        (
            Config { mode: base.mode.direction(Direction::Backward), ..base.clone() },
            "conv1d: `direction` is not among the settings of this operator",
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
        (&[x][..], &[][..], "conv1d: tensor `weight`: expected [C, W] or [C, 1, W], found none (given: x)"),
        (&[x, ("weight", &[3, 4])], &[], "conv1d: tensor `weight`: expected C = 4 channels as in x, found [3, 4]"),
        (&[x, ("weight", &[4, 33])], &[], "conv1d: tensor `weight`: expected a width W of 1 to 32, found 33"),
        (
            &[x, ("weight", &[4])],
            &[],
            "conv1d: tensor `weight`: expected rank 2 or 3 [C, W] or [C, 1, W], found rank 1 [4]",
        ),
        (&[x, ("weight", &[4, 2, 4])], &[], "conv1d: tensor `weight`: expected [C, W] or [C, 1, W], found [4, 2, 4]"),
        (
            &[x, ("weight", &[4, 4])],
            &[("padding", "valid")],
            "conv1d: --padding: expected causal or same, found `valid`",
        ),
        (
            &[x, ("weight", &[4, 4])],
            &[("padding", "same"), ("decode", "true")],
            "conv1d: --padding same cannot be used with a state or decode, because outputs depend on later inputs",
        ),
        (
            &[x, ("weight", &[4, 4])],
            &[("dilation", "999999999")],
            "conv1d: --dilation: expected 1 to 357913941 for 4 taps, found 999999999",
        ),
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
    // Eight outputs load twelve inputs.
    assert!(program.cost().bytes() < 1.26 * long.cost().bytes(), "{:?}", program.cost());
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(one_input_gives_the_weights_backwards),
        test(pieces_equal_the_whole_bit_for_bit),
        test(padding_same_is_the_causal_form_shifted),
        test(dilated_taps_are_taps_with_zeros_between_them),
        test(packed_sequences_are_runs_of_their_own),
        test(borders_that_are_none_end_a_run_too),
        test(the_state_is_the_last_inputs_oldest_first),
        test(the_activation_of_large_sums_is_finite),
        test(refused_before_anything_runs),
        test(tensors_that_do_not_fit_shapes_or_flags_are_refused_by_name),
        test(one_token_is_one_dispatch_and_nothing_takes_workspace),
    ]
}
