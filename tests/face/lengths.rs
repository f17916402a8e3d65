//! How many keys a batch entry has, read by every run.

use subquad::gpu::readback;
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, Plan, Precision, Rows};
use subquad::ops::{softmax, yat};
use subquad::tensor::{Access, DType, HostTensor, TensorMap, Values};
use subquad::verify::tolerance::relative_rms;

use crate::{open, quick, values};

/// Numbers for q, k and v of an operator; k and v are not a number behind the length of their batch entry.
fn with_lengths(operator: &dyn Operator, counts: &[u32]) -> TensorMap {
    let mut tensors = TensorMap::new();
    for (i, slot) in operator.slots().iter().enumerate().filter(|(_, slot)| slot.access == Access::Read) {
        let (shape, mut numbers) = (slot.shape(), values(slot.shape().count(), 7 + i as u32));
        if slot.name == "lengths" {
            tensors.insert("lengths", HostTensor::new(shape, Values::U32(counts.to_vec())));
            continue;
        }
        if slot.name != "q" {
            let [_, heads, keys, dim] = shape.dims().try_into().unwrap();
            for (row, numbers) in numbers.chunks_exact_mut(dim).enumerate() {
                if row % keys >= counts[row / keys / heads] as usize {
                    numbers.fill(f32::NAN);
                }
            }
        }
        tensors.insert(slot.name, HostTensor::f32(shape, numbers));
    }
    tensors
}

/// On a GPU and on the CPU, with lengths of nothing, of something and of all, in one batch.
#[test]
fn keys_behind_a_length_are_neither_seen_nor_read() {
    let Some(ctx) = open() else { return };
    let counts = [0, 1, 131, 297, 300, 299];
    let tiled = Qkv::new().batch(6).heads(2).len(70).dim(24).dim_v(20).kv_heads(1).keys(300);
    let split = tiled.queries(3);
    let soft = |qkv| softmax::Config { lengths: true, ..softmax::Config::new(qkv) };
    let yat_of = |qkv| yat::Config { lengths: true, ..yat::Config::new(qkv) };
    let mut operators: Vec<(&str, &str, Box<dyn Operator>)> = vec![
        ("softmax", "tiles", Box::new(soft(tiled))),
        ("softmax, open", "tiles", Box::new(softmax::Config { causal: false, ..soft(tiled) })),
        ("softmax, window", "tiles", Box::new(softmax::Config { window: Some(90), ..soft(tiled) })),
        ("softmax, keys split", "splits", Box::new(soft(split))),
        ("softmax, keys split, open", "splits", Box::new(softmax::Config { causal: false, ..soft(split) })),
        ("softmax, keys split, window", "splits", Box::new(softmax::Config { window: Some(150), ..soft(split) })),
        ("yat, keys split", "splits", Box::new(yat_of(split))),
    ];
    if !quick() {
        operators.push(("yat", "tiles", Box::new(yat_of(tiled))));
        let euclidean = yat::Config { kernel: yat::Kernel::Euclidean, norm: yat::Norm::Softmax, ..yat_of(split) };
        operators.push(("yat, euclidean", "splits", Box::new(euclidean)));
    }
    for (name, variant, operator) in &operators {
        let tensors = with_lengths(operator.as_ref(), &counts);
        let want = operator.reference(&tensors, Precision::F64, Rows::All).remove(0).1;
        let done = subquad::verify::run::gpu(&ctx, operator.as_ref(), &tensors, true, &mut |_| {}).unwrap();
        assert!(done.variant.contains(variant), "{name}: {}", done.variant);
        let on_cpu = operator.cpu(&tensors).unwrap();
        for (place, got) in [("gpu", done.outputs.get("o")), ("cpu", on_cpu.get("o"))] {
            let error = relative_rms(&got.unwrap().to_f64(), &want);
            assert!(error < 2e-6, "{name} on the {place}: {error:.2e}");
        }
        let first = want.len() / counts.len();
        assert!(want[..first].iter().all(|x| *x == 0.0), "{name}: without keys");
        assert!(want[first..].iter().any(|x| *x != 0.0), "{name}: with keys");
        assert_eq!(want[4 * first..].len(), 2 * first);
    }
}

/// A length of all keys gives the bits of a plan without lengths.
#[test]
fn full_lengths_change_nothing() {
    let Some(ctx) = open() else { return };
    for qkv in [
        Qkv::new().batch(2).heads(2).len(70).dim(24).dim_v(20).keys(200),
        Qkv::new().batch(2).heads(2).len(1).dim(24).dim_v(20).keys(200),
    ] {
        let fixed = softmax::Config::new(qkv);
        let config = softmax::Config { lengths: true, ..fixed.clone() };
        let tensors = with_lengths(&config, &[200, 200]);
        let [a, b] = [&fixed as &dyn Operator, &config]
            .map(|operator| subquad::verify::run::gpu(&ctx, operator, &tensors, true, &mut |_| {}).unwrap().outputs);
        assert_eq!(a.get("o").unwrap().bytes(), b.get("o").unwrap().bytes());
    }
}

/// One plan and one recording: the caller writes a key, a value and the length, and submits.
#[test]
fn a_hundred_steps_over_a_growing_cache() {
    let Some(ctx) = open() else { return };
    let (b, h, g, room, d) = (2, 4, 2, 700, 16);
    let step = Qkv::new().batch(b).heads(h).len(1).dim(d).kv_heads(g);
    let plan = Plan::new(&ctx, softmax::Config { lengths: true, ..softmax::Config::new(step.keys(room)) }).unwrap();
    // A prompt of 450 keys in the first batch entry, of 40 in the second; the rest is not a number. The entries then pass the
    // end of a tile: of the one that makes all splits longer, and of the first.
    let mut counts = [450u32, 40];
    let shape = [b, g, room, d];
    let mut host = [1, 2].map(|seed| values(b * g * room * d, seed));
    for cache in &mut host {
        for (row, numbers) in cache.chunks_exact_mut(d).enumerate() {
            if row % room >= counts[row / room / g] as usize {
                numbers.fill(f32::NAN);
            }
        }
    }
    let caches = [0, 1].map(|i| readback::upload(&ctx, "cache", &HostTensor::f32(shape, host[i].clone())).unwrap());
    let lengths = readback::upload(&ctx, "lengths", &HostTensor::new([b], Values::U32(counts.to_vec()))).unwrap();
    let q = readback::empty(&ctx, "q", [b, h, 1, d], DType::F32).unwrap();
    let o = readback::empty(&ctx, "o", [b, h, 1, d], DType::F32).unwrap();
    let tensors = softmax::Tensors { lengths: Some(&lengths), ..softmax::Tensors::new(&q, &caches[0], &caches[1], &o) };
    let recording = plan.bind(tensors).unwrap();
    for token in 0..100u32 {
        let queries = values(b * h * d, 1000 + token);
        ctx.queue().write_buffer(q.buffer(), 0, bytemuck::cast_slice(&queries));
        for (i, (cache, host)) in caches.iter().zip(&mut host).enumerate() {
            for unit in 0..b * g {
                let row = values(d, 5000 + 10 * token + 5 * i as u32 + unit as u32);
                let at = (unit * room + counts[unit / g] as usize) * d;
                host[at..at + d].copy_from_slice(&row);
                ctx.queue().write_buffer(cache.buffer(), at as u64 * 4, bytemuck::cast_slice(&row));
            }
        }
        counts.iter_mut().for_each(|count| *count += 1);
        ctx.queue().write_buffer(lengths.buffer(), 0, bytemuck::cast_slice(&counts));
        let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        recording.encode(&mut encoder);
        ctx.queue().submit([encoder.finish()]);
        let got = readback::read_blocking(&ctx, &o).unwrap().to_f64();
        // Each batch entry by itself, over the keys it has.
        for (entry, count) in counts.iter().enumerate() {
            let count = *count as usize;
            let config = softmax::Config::new(step.batch(1).keys(count));
            let mut alone = TensorMap::new();
            alone.insert("q", HostTensor::f32([1, h, 1, d], queries[entry * h * d..][..h * d].to_vec()));
            for (name, host) in ["k", "v"].into_iter().zip(&host) {
                let units = (entry * g..(entry + 1) * g).flat_map(|unit| &host[unit * room * d..][..count * d]);
                alone.insert(name, HostTensor::f32([1, g, count, d], units.copied().collect()));
            }
            let want = config.reference(&alone, Precision::F64, Rows::All).remove(0).1;
            let error = relative_rms(&got[entry * h * d..][..h * d], &want);
            assert!(error < 2e-6, "token {token}, entry {entry}: {error:.2e}");
        }
    }
}
