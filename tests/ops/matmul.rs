//! Products with weights: several outputs, columns first, storage types, and weights larger than a binding.

use libtest_mimic::Trial;
use subquad::catalog::random;
use subquad::gpu::{Caps, plan};
use subquad::operator::Operator;
use subquad::ops::primitives::matmul::{Activation, Config, Output};
use subquad::tensor::{Access, DType, HostTensor, TensorMap};

use crate::support::{assert_matches, assert_same_bits, backends_for, context, on_gpu_with, test};

/// Everything that a configuration reads, drawn.
fn inputs(c: &Config) -> TensorMap {
    let slots = c.slots();
    let read = slots.iter().filter(|slot| slot.access == Access::Read).enumerate();
    let draw = |(at, slot): (usize, &subquad::tensor::Slot)| {
        let shape = slot.shape();
        let values = random::normal(31, at as u64, shape.count());
        (slot.name.to_owned(), HostTensor::f32(shape, values).cast(slot.dtype))
    };
    read.map(draw).collect()
}

const HEADS: Output = Output::new(24);
const TURNED: Output = Output { width: 20, columns: true };
const ODD: Output = Output { width: 7, columns: true };

/// Every output is a tensor of its own, and what it holds does not depend on the others.
fn blocks_of_the_weight_are_outputs_of_their_own() {
    let silu = Activation::Silu;
    for (rows, inner, outputs) in [
        (36, 40, vec![HEADS, TURNED]),
        (37, 21, vec![Output::new(3), ODD, TURNED, Output::new(70)]),
        (1, 32, vec![TURNED, HEADS, ODD, Output::new(1)]),
        (5, 32, vec![HEADS, HEADS]),
        (130, 8, vec![HEADS, Output::new(130), TURNED, Output::new(1), HEADS, HEADS, ODD, Output::new(65)]),
    ] {
        for (dtype, weight) in [(DType::F32, DType::F32), (DType::F32, DType::F16), (DType::F16, DType::F16)] {
            let base = Config { dtype, weight, bias: true, activation: silu, ..Config::new(rows, inner, 1) };
            let c = Config { outputs: outputs.clone(), ..base };
            let all = inputs(&c);
            for (backend, run) in backends_for(dtype) {
                assert_matches(&format!("{backend}: {c:?}"), &c, &all, &run(&c, &all));
            }
        }
    }
}

fn x_and_the_only_output_may_have_columns_first() {
    for (rows, inner, width) in [(1, 1, 1), (70, 33, 75), (72, 36, 68), (3, 40, 20), (20, 130, 9)] {
        for (x_columns, columns) in [(true, false), (false, true), (true, true)] {
            let plain =
                Config { x_columns, outputs: vec![Output { width, columns }], ..Config::new(rows, inner, width) };
            let all = Config { bias: true, times: true, residual: true, scale: -0.25, ..plain.clone() };
            for c in [plain.clone(), all, Config { dtype: DType::F16, weight: DType::F16, ..plain }] {
                let given = inputs(&c);
                for (backend, run) in backends_for(c.dtype) {
                    assert_matches(&format!("{backend}: {c:?}"), &c, &given, &run(&c, &given));
                }
            }
        }
    }
}

/// Halves that are not normal numbers, of both signs, and infinities are weights like others.
fn halves_of_every_size_are_read_exactly() {
    let unit = 2f32.powi(-24);
    let list = [0.0, unit, -unit, 1023.0 * unit, -512.0 * unit, 1024.0 * unit, 1.0, -1.5, 65504.0, -65504.0];
    for inner in [1, 4] {
        let c = Config { weight: DType::F16, ..Config::new(1, inner, list.len()) };
        let mut weight = vec![0.0; inner * list.len()];
        list.iter().enumerate().for_each(|(m, x)| weight[m * inner] = *x);
        let mut x = vec![0.0; inner];
        x[0] = 1.0;
        let mut given = TensorMap::new();
        given.insert("x", HostTensor::f32([1, inner], x));
        given.insert("weight", HostTensor::f32([list.len(), inner], weight).cast(DType::F16));
        for (backend, run) in backends_for(DType::F32) {
            assert_eq!(run(&c, &given).get("o").unwrap().to_f32(), list, "{backend}");
        }
        // Without the device's own conversion.
        let Some(ctx) = context() else { continue };
        let caps = Caps { f16: false, ..ctx.caps().clone() };
        let got = on_gpu_with(ctx, c.program(&caps).unwrap(), &given);
        assert_eq!(got.get("o").unwrap().to_f32(), list, "by whole numbers");
    }
}

/// Tensors over the limit of a binding are cut: the weight and x at rows, o at outputs and then at rows.
fn tensors_over_one_binding_are_cut() {
    let Some(ctx) = context() else { return };
    let limited = |bytes: u64| {
        let mut caps = ctx.caps().clone();
        caps.limits.max_storage_buffer_binding_size = bytes;
        caps
    };
    let caps = limited(16 << 10);
    let two = vec![Output::new(36), TURNED];
    for (what, c, at_least) in [
        ("weight", Config { bias: true, ..Config::new(9, 40, 300) }, 3),
        ("weight of halves", Config { weight: DType::F16, ..Config::new(9, 40, 300) }, 2),
        ("odd weight", Config::new(9, 41, 301), 3),
        ("x", Config { residual: true, times: true, ..Config::new(300, 40, 8) }, 3),
        ("o", Config { residual: true, bias: true, ..Config::new(300, 8, 40) }, 3),
        ("x, weight and o", Config { bias: true, times: true, ..Config::new(150, 40, 150) }, 4),
        (
            "turned o",
            Config { residual: true, outputs: vec![Output { width: 300, columns: true }], ..Config::new(70, 8, 1) },
            5,
        ),
        ("outputs", Config { bias: true, outputs: two, ..Config::new(150, 40, 1) }, 4),
    ] {
        let given = inputs(&c);
        let program = c.program(&caps).unwrap();
        assert!(program.steps().len() >= at_least, "{what}: {} steps", program.steps().len());
        assert!(plan::operands_fit(&program), "{what}");
        assert_matches(what, &c, &given, &on_gpu_with(ctx, program, &given));
    }
    let sentence = |c: Config, bytes| c.program(&limited(bytes)).unwrap_err().to_string();
    let error = sentence(Config::new(1, 300, 9), 4 << 10);
    assert_eq!(error, "matmul: tensor `weight` (bytes of four rows) needs 4800, the limit of this device is 4096");
    let error = sentence(Config { x_columns: true, ..Config::new(300, 4, 9) }, 1 << 10);
    assert_eq!(error, "matmul: tensor `x` (bytes in one binding) needs 4800, the limit of this device is 1024");
}

/// A vocabulary's head on WebGPU's default limits: 154 MB of weights, 206 MB of logits.
fn a_vocabulary_fits_the_default_limits() {
    let caps = Caps::portable();
    for (rows, steps) in [(1, 2), (1024, 4)] {
        let program = Config::new(rows, 768, 50280).program(&caps).unwrap();
        assert_eq!(program.steps().len(), steps, "{program}");
    }
}

fn an_update_leaves_outputs_in_their_buffers() {
    for (c, rows) in [(Config::new(1, 32, 40), 1), (Config::new(30, 32, 40), 30)] {
        let c = Config { outputs: vec![Output::new(40), TURNED], ..c };
        let mut map = inputs(&c);
        let want = c.cpu(&map).unwrap();
        c.cpu_update(&mut map).unwrap();
        let at = |map: &TensorMap, name: &str| map.get(name).unwrap().bytes().as_ptr();
        let before = ["o", "o1"].map(|name| at(&map, name));
        for _ in 0..2 {
            c.cpu_update(&mut map).unwrap();
            assert_eq!(before, ["o", "o1"].map(|name| at(&map, name)), "{rows} rows");
        }
        for (name, tensor) in want.iter() {
            assert_same_bits(name, tensor, map.get(name).unwrap());
        }
        // What is there in another shape is replaced.
        map.insert("o", HostTensor::zeros([3], DType::F32));
        c.cpu_update(&mut map).unwrap();
        assert_same_bits("o", want.get("o").unwrap(), map.get("o").unwrap());
        map.remove("x");
        let error = c.cpu_update(&mut map).unwrap_err().to_string();
        assert!(error.starts_with("matmul: tensor `x`: expected f32 ["), "{error}");
    }
}

fn settings_that_contradict_each_other_are_refused() {
    let one = Config::new(2, 3, 4);
    let two = vec![Output::new(4); 2];
    for (c, sentence) in [
        (Config { rows: 0, ..one.clone() }, "`N`: expected 1 or more, found 0"),
        (Config { inner: 0, ..one.clone() }, "`K`: expected 1 or more, found 0"),
        (Config::new(2, 3, 0), "`M`: expected 1 or more, found 0"),
        (Config { outputs: vec![], ..one.clone() }, "`outputs`: expected 1 to 8, found 0"),
        (Config { outputs: vec![Output::new(1); 9], ..one.clone() }, "`outputs`: expected 1 to 8, found 9"),
        (Config { times: true, outputs: two.clone(), ..one.clone() }, "`times` needs one output, found 2"),
        (Config { residual: true, outputs: two, ..one.clone() }, "`residual` needs one output, found 2"),
        (Config { scale: f32::NAN, ..one.clone() }, "`scale`: expected a finite number, found NaN"),
        (Config { dtype: DType::I32, ..one.clone() }, "tensor `x`: expected f32 or f16, found i32"),
        (Config { weight: DType::U8, ..one.clone() }, "tensor `weight`: expected f32 or f16, found u8"),
    ] {
        assert_eq!(c.validate().unwrap_err().to_string(), format!("matmul: {sentence}"));
    }
    let huge = Config::new(usize::MAX, 3, usize::MAX).validate().unwrap_err().to_string();
    assert!(huge.starts_with("matmul: tensor `x`: expected a shape that fits in memory"), "{huge}");
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(blocks_of_the_weight_are_outputs_of_their_own),
        test(x_and_the_only_output_may_have_columns_first),
        test(halves_of_every_size_are_read_exactly),
        test(tensors_over_one_binding_are_cut),
        test(a_vocabulary_fits_the_default_limits),
        test(an_update_leaves_outputs_in_their_buffers),
        test(settings_that_contradict_each_other_are_refused),
    ]
}
