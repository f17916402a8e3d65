//! Masks, biases, sinks and logarithms of sums as an application gives and takes them.

use subquad::gpu::readback;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::softmax::{Config, Pairs, Tensors};
use subquad::tensor::{DType, HostTensor, TensorMap, Values};
use subquad::verify::tolerance::relative_rms;

use crate::{open, values};

/// Every extra at once, and its inputs: a third of the pairs is masked.
fn everything() -> (Config, TensorMap) {
    let qkv = Qkv::new().batch(2).heads(4).len(70).dim(24).dim_v(20).kv_heads(2).keys(90);
    let own = Pairs { batch: true, heads: true };
    let config = Config {
        bias: Some(Pairs::SHARED),
        mask: Some(own),
        sink: true,
        softcap: Some(3.0),
        lse: true,
        ..Config::new(qkv)
    };
    let mut tensors = TensorMap::new();
    let shapes = [
        ("q", [2, 4, 70, 24].into()),
        ("k", [2, 2, 90, 24].into()),
        ("v", [2, 2, 90, 20].into()),
        ("bias", Pairs::SHARED.shape(&qkv)),
        ("mask", own.shape(&qkv)),
        ("sink", [4].into()),
    ];
    for (seed, (name, shape)) in shapes.into_iter().enumerate() {
        let numbers = values(shape.count(), seed as u32);
        let numbers =
            if name == "mask" { numbers.iter().map(|x| f32::from(u8::from(*x < 0.3))).collect() } else { numbers };
        tensors.insert(name, HostTensor::f32(shape, numbers));
    }
    (config, tensors)
}

/// The outputs by the definition.
fn wanted(config: &Config, tensors: &TensorMap) -> Vec<(&'static str, Vec<f64>)> {
    let mut tensors = tensors.clone();
    let mask = tensors.get("mask").unwrap().cast(DType::U8);
    tensors.insert("mask", mask);
    config.reference(&tensors, Precision::F64, Rows::All)
}

#[test]
fn slices_are_enough() {
    let Some(ctx) = open() else { return };
    let (config, tensors) = everything();
    let slices: Vec<(&str, Vec<f32>)> = tensors.iter().map(|(name, tensor)| (name, tensor.to_f32())).collect();
    let outputs = subquad::run(&ctx, &config, slices.iter().map(|(name, values)| (*name, &values[..]))).unwrap();
    for (name, want) in wanted(&config, &tensors) {
        let error = relative_rms(&outputs.get(name).unwrap().to_f64(), &want);
        assert!(error < 1e-6, "{name}: {error:.2e}");
    }
    let short = subquad::run(&ctx, &config, [("mask", &[1.0; 7][..])]).unwrap_err().to_string();
    assert_eq!(short, "softmax: tensor `mask`: expected [2, 4, 70, 90], found 7 values");
}

#[test]
fn a_mask_is_bound_as_bits() {
    let Some(ctx) = open() else { return };
    let (config, tensors) = everything();
    let plan = config.plan(&ctx).unwrap();
    let upload = |name: &str| readback::upload(&ctx, name, tensors.get(name).unwrap()).unwrap();
    let [q, k, v, bias, sink] = ["q", "k", "v", "bias", "sink"].map(upload);
    let bits = tensors.get("mask").unwrap().to_bits();
    assert_eq!((bits.dtype(), bits.shape()), (DType::U32, &[2, 4, 70, 3].into()));
    let mask = readback::upload(&ctx, "mask", &bits).unwrap();
    let o = readback::empty(&ctx, "o", [2, 4, 70, 20], DType::F32).unwrap();
    let lse = readback::empty(&ctx, "lse", [2, 4, 70], DType::F32).unwrap();
    let bound = |mask| Tensors {
        bias: Some(&bias),
        mask: Some(mask),
        sink: Some(&sink),
        lse: Some(&lse),
        ..Tensors::new(&q, &k, &v, &o)
    };
    let recording = plan.bind(bound(&mask)).unwrap();
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    recording.encode(&mut encoder);
    readback::submit(&ctx, encoder).unwrap();
    for ((name, want), tensor) in wanted(&config, &tensors).into_iter().zip([&o, &lse]) {
        let error = relative_rms(&readback::read_blocking(&ctx, tensor).unwrap().to_f64(), &want);
        assert!(error < 1e-6, "{name}: {error:.2e}");
    }
    let refused = plan.bind(bound(&bias)).unwrap_err().to_string();
    assert_eq!(refused, "softmax: tensor `mask`: expected u32 [2, 4, 70, 3], found f32 [1, 1, 70, 90]");
}

#[test]
fn bits_are_those_of_the_elements() {
    let mask: Vec<u8> = (0..70).map(|i| u8::from(i % 35 == 0 || i % 35 == 33) * 7).collect();
    let bits = HostTensor::new([2, 35], Values::U8(mask)).to_bits();
    assert_eq!(bits.values(), &Values::U32(vec![1, 2, 1, 2]));
}
