//! Products with weights: several outputs, columns first, storage types, and weights larger than a binding.

use libtest_mimic::Trial;
use subquad::catalog::random;
use subquad::gpu::{Caps, Context, Matrix, Program, plan};
use subquad::operator::Operator;
use subquad::ops::primitives::matmul::{Activation, Config, Output};
use subquad::tensor::{Access, DType, HostTensor, TensorMap};

use crate::bytes::moved_by;
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

/// Runs a program on the device of the tests, within the tolerance. Where storage is f32, it moves the bytes that it states.
fn check(ctx: &Context, what: &str, c: &Config, program: Program) {
    let given = inputs(c);
    if c.dtype == DType::F32 {
        let (stated, moved) = moved_by(ctx, program.clone(), &given);
        assert_eq!([stated.bytes_read, stated.bytes_written], moved, "{what}: bytes");
    }
    assert_matches(what, c, &given, &on_gpu_with(ctx, program, &given));
}

/// All that follows the sums, where there is one output.
fn whole(c: Config) -> Config {
    let one = c.outputs.len() == 1;
    Config { bias: true, times: one, residual: one, activation: Activation::Silu, scale: 0.5, ..c }
}

/// Few rows: with as many workgroups as there may be and with as few, with subgroups and without.
fn few_rows_are_multiplied_as_the_weight_is_read() {
    let Some(ctx) = context() else { return };
    for (rows, inner, width) in [(1, 64, 70), (1, 1000, 9), (2, 259, 33), (3, 520, 20), (5, 40, 12), (8, 300, 31)] {
        for weight in [DType::F32, DType::F16] {
            let c = whole(Config { weight, ..Config::new(rows, inner, width) });
            for (full_groups, subgroups) in [(1, ctx.caps().subgroups), (1 << 20, None)] {
                let caps = Caps { full_groups, subgroups, ..ctx.caps().clone() };
                let program = c.program(&caps).unwrap();
                let expected = match full_groups {
                    1 => (16 / rows.next_power_of_two()).min(4),
                    _ => 1,
                };
                assert_eq!(program.variant(), format!("{expected} rows of the weight a workgroup"));
                check(ctx, &format!("{c:?}, {full_groups}"), &c, program);
            }
        }
    }
    let turned = vec![Output::new(5), ODD, TURNED];
    let c = whole(Config { x_columns: true, outputs: turned, ..Config::new(3, 50, 1) });
    check(ctx, "turned", &c, c.program(ctx.caps()).unwrap());
}

/// A device that few tiles leave idle adds up the sums of parts of K in a second dispatch.
fn k_is_split_where_tiles_are_few() {
    let Some(ctx) = context() else { return };
    let caps = Caps { full_groups: 64, ..ctx.caps().clone() };
    let of = |rows, inner, outputs: &[Output]| Config { outputs: outputs.to_vec(), ..Config::new(rows, inner, 1) };
    for (c, splits) in [
        (of(20, 1024, &[Output::new(72)]), 4),
        (of(37, 1037, &[Output::new(75)]), 4),
        (of(36, 520, &[TURNED]), 2),
        (Config { x_columns: true, weight: DType::F16, ..of(37, 777, &[Output::new(75)]) }, 3),
        (of(70, 600, &[HEADS, TURNED, ODD, Output::new(1)]), 2),
        (of(72, 600, &[HEADS, TURNED]), 2),
        (Config { dtype: DType::F16, ..of(37, 600, &[Output::new(75)]) }, 2),
    ] {
        if c.dtype == DType::F16 && !ctx.caps().f16 {
            continue;
        }
        let c = whole(c);
        let program = c.program(&caps).unwrap();
        assert!(program.variant().ends_with(&format!(", K in {splits} parts")), "{program}");
        check(ctx, &format!("{c:?}"), &c, program);
    }
    // Not where the sums of all parts exceed a binding.
    let square = Config::new(300, 512, 300);
    for (bytes, steps) in [(720_000, 2), (719_999, 1)] {
        let mut small = caps.clone();
        small.limits.max_storage_buffer_binding_size = bytes;
        assert_eq!(square.program(&small).unwrap().steps().len(), steps);
    }
}

/// Every function of the sums on both backends, at sums from -12 to 12.
fn activations_are_those_of_the_definition() {
    let sums: Vec<f32> = (0..97).map(|at| at as f32 / 4.0 - 12.0).collect();
    let one = HostTensor::f32([1, 1], vec![1.0]);
    let mut given = TensorMap::new();
    given.insert("x", one);
    given.insert("weight", HostTensor::f32([sums.len(), 1], sums.clone()));
    for activation in [
        Activation::None,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Relu2,
        Activation::Sigmoid,
    ] {
        let c = Config { activation, ..Config::new(1, 1, sums.len()) };
        for (backend, run) in backends_for(DType::F32) {
            assert_matches(&format!("{backend}: {activation:?}"), &c, &given, &run(&c, &given));
        }
    }
    // Far from 0 all of them are 0, 1 or the sum.
    let far = HostTensor::f32([2, 1], vec![-1e4, 1e4]);
    given.insert("weight", far);
    for (activation, want) in [
        (Activation::Silu, [0.0, 1e4]),
        (Activation::Gelu, [0.0, 1e4]),
        (Activation::GeluTanh, [0.0, 1e4]),
        (Activation::Sigmoid, [0.0, 1.0]),
    ] {
        let c = Config { activation, ..Config::new(1, 1, 2) };
        for (backend, run) in backends_for(DType::F32) {
            let got = run(&c, &given).get("o").unwrap().to_f32();
            assert!((got[0] - want[0]).abs() < 1e-30 && got[1] == want[1], "{backend}: {activation:?}: {got:?}");
        }
    }
}

/// Halves by halves take matrix units: those of the adapter, and their emulation on every adapter with f16.
fn halves_take_matrix_units() {
    let half = |c: Config| Config { dtype: DType::F16, weight: DType::F16, ..c };
    let limits = wgpu::Limits { max_compute_workgroup_storage_size: 32768, ..wgpu::Limits::default() };
    for (tile, lanes) in [(8, 8), (8, 32), (16, 32), (16, 64)] {
        let matrix = Some(Matrix { tile, lanes, emulated: false });
        let caps = Caps { f16: true, matrix, limits: limits.clone(), ..Caps::portable() };
        let takes = |c: &Config, caps: &Caps| c.program(caps).unwrap().variant().starts_with("matrix units of ");
        let c = half(Config::new(512, 64, 512));
        assert!(takes(&c, &caps) && !takes(&Config::new(512, 64, 512), &caps));
        assert!(!takes(&Config { weight: DType::F32, ..c.clone() }, &caps));
        assert!(!takes(&Config { rows: 31, ..c.clone() }, &caps));
        let step = c.program(&caps).unwrap().steps()[0].clone();
        let resolved = subquad::gpu::limits::resolve(step.kernel, &step.spec).unwrap();
        let needs = subquad::gpu::limits::needs(step.kernel, &step.spec, &resolved).unwrap();
        assert_eq!(needs.workgroup, [4 * lanes, 1, 1]);
        for (bytes, fits) in [(needs.workgroup_bytes, true), (needs.workgroup_bytes - 1, false)] {
            let limits = wgpu::Limits { max_compute_workgroup_storage_size: bytes, ..limits.clone() };
            assert_eq!(takes(&c, &Caps { limits, ..caps.clone() }), fits, "{tile} {lanes}");
        }
    }
    let Some(ctx) = context().filter(|ctx| ctx.caps().f16) else { return };
    let emulated = Some(Matrix { tile: 8, lanes: 8, emulated: true });
    for matrix in [emulated, ctx.caps().matrix].into_iter().flatten() {
        let caps = Caps { matrix: Some(matrix), full_groups: 16, ..ctx.caps().clone() };
        for c in [
            half(Config::new(64, 64, 64)),
            whole(half(Config::new(70, 72, 76))),
            whole(half(Config::new(35, 37, 75))),
            whole(half(Config { x_columns: true, outputs: vec![HEADS, TURNED, ODD], ..Config::new(72, 45, 1) })),
            whole(half(Config { x_columns: true, outputs: vec![TURNED], ..Config::new(72, 45, 1) })),
            whole(half(Config::new(40, 1032, 72))),
        ] {
            let program = c.program(&caps).unwrap();
            assert_eq!(program.steps()[0].kernel.name, "primitives_matmul_matrix");
            check(ctx, &format!("{matrix:?}: {c:?}"), &c, program);
        }
        let c = half(Config::new(70, 40, 75));
        let (stated, moved) = moved_by(ctx, c.program(&caps).unwrap(), &inputs(&c));
        assert_eq!([stated.bytes_read, stated.bytes_written], moved.map(|bytes| bytes / 2.0), "counters count words");
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
        test(few_rows_are_multiplied_as_the_weight_is_read),
        test(k_is_split_where_tiles_are_few),
        test(activations_are_those_of_the_definition),
        test(halves_take_matrix_units),
        test(an_update_leaves_outputs_in_their_buffers),
        test(settings_that_contradict_each_other_are_refused),
    ]
}
