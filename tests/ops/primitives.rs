//! Parts of memories, alone: each against its definition, that against something else.

use libtest_mimic::Trial;
use subquad::catalog::random;
use subquad::gpu::{Context, Workspace, readback};
use subquad::operator::Bound;
use subquad::operator::{Operator, Precision, Rows, compile};
use subquad::ops::primitives::{gated_norm, gather, stable_sort, topk};
use subquad::ops::ramnet;
use subquad::tensor::{DType, HostTensor, Layout, Shape, Tensor, TensorMap, Values};

use crate::support::{assert_matches, backends, backends_for, context, test};

fn normal(shape: impl Into<Shape>, stream: u64) -> HostTensor {
    let shape = shape.into();
    HostTensor::f32(shape.clone(), random::normal(21, stream, shape.count()))
}

fn map(tensors: Vec<(&str, HostTensor)>) -> TensorMap {
    tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

fn whole(shape: impl Into<Shape>, values: Vec<u32>) -> HostTensor {
    HostTensor::new(shape, Values::U32(values))
}

/// Numbers below `most`, the same ones in every run.
fn numbers(count: usize, most: u32) -> Vec<u32> {
    let mut x = 12345u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) % most
    };
    (0..count).map(|_| next()).collect()
}

/// Logits in eighths, so that sums are exact and many are equal.
fn tied(shape: [usize; 2], most: u32) -> HostTensor {
    let values = numbers(shape[0] * shape[1], most);
    HostTensor::f32(shape, values.into_iter().map(|x| x as f32 / 8.0 - 1.0).collect())
}

fn the_beam_is_all_sums_sorted_ties_by_address() {
    for (digits, choices, most_tied) in [(5, 4, 3), (3, 7, 4), (2, 16, 5), (1, 300, 9), (11, 2, 2), (2, 64, 1)] {
        for topk in [1, 5, 16, 64] {
            let c = topk::Config::new(7, digits, choices, topk);
            if c.validate().is_err() {
                continue;
            }
            let logits = tied([7, digits * choices], most_tied);
            let inputs = map(vec![("logits", logits.clone())]);
            let mut want = Vec::new();
            for row in logits.to_f64().chunks_exact(digits * choices) {
                let sum = |mut address: usize| {
                    let mut sum = 0.0;
                    for digit in row.chunks_exact(choices) {
                        sum += digit[address % choices];
                        address /= choices;
                    }
                    sum
                };
                let mut all: Vec<usize> = (0..choices.pow(digits as u32)).collect();
                all.sort_by(|a, b| sum(*b).total_cmp(&sum(*a)).then(a.cmp(b)));
                want.extend(all[..topk].iter().map(|address| *address as f64));
            }
            let definition = c.reference(&inputs, Precision::F64, Rows::All);
            assert_eq!(definition[0], ("indices", want.clone()), "{c:?}");
            for (backend, run) in backends() {
                let got = run(&c, &inputs);
                assert_eq!(got.get("indices").unwrap().to_f64(), want, "{backend}: {c:?}");
            }
        }
    }
}

/// Zeros of both signs are equal, infinities are sums, NaN is no better than anything.
fn the_beam_orders_what_is_not_finite() {
    let c = topk::Config { weights: topk::Weights::Softmax, ..topk::Config::new(3, 1, 5, 5) };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let rows = vec![0.0, -0.0, 1.0, -0.0, 0.0, nan, -inf, 3.0, nan, -3.0, 2.0, -inf, -inf, 2.0, -1.0];
    let inputs = map(vec![("logits", HostTensor::f32([3, 5], rows))]);
    for (backend, run) in backends() {
        let got = run(&c, &inputs).get("indices").unwrap().to_f64();
        assert_eq!(got, [2., 0., 1., 3., 4., 2., 4., 1., 0., 3., 0., 3., 4., 1., 2.], "{backend}");
    }
}

fn addresses_weigh_what_the_definition_says() {
    for (digits, choices, k) in [(5, 4, 8), (3, 5, 7), (2, 300, 32), (1, 9, 3), (16, 2, 64)] {
        for (weights, tau) in
            [(topk::Weights::Product, 1.0), (topk::Weights::Product, 0.3), (topk::Weights::Softmax, 0.7)]
        {
            for dtype in [DType::F32, DType::F16] {
                let c = topk::Config { weights, tau, dtype, ..topk::Config::new(11, digits, choices, k) };
                let inputs = map(vec![("logits", normal([11, digits * choices], 0).cast(dtype))]);
                for (backend, run) in backends_for(dtype) {
                    assert_matches(&format!("{backend}: {c:?}"), &c, &inputs, &run(&c, &inputs));
                }
            }
        }
    }
}

/// Product keys: the best pairs of two halves, softmax over what is kept, values of one table.
fn product_keys_are_two_digits_and_a_gather() {
    let (rows, keys, k, dim) = (6, 24, 8, 20);
    let logits = normal([rows, 2 * keys], 3);
    let table = normal([keys * keys, dim], 4);
    let (scores, values) = (logits.to_f64(), table.to_f64());
    let mut want = Vec::new();
    for row in scores.chunks_exact(2 * keys) {
        let mut pairs: Vec<(f64, usize)> = Vec::new();
        for i in 0..keys {
            pairs.extend((0..keys).map(|j| (row[i] + row[keys + j], j * keys + i)));
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let sum: f64 = pairs[..k].iter().map(|(score, _)| (score - pairs[0].0).exp()).sum();
        let weight = |score: f64| (score - pairs[0].0).exp() / sum;
        for e in 0..dim {
            want.push(pairs[..k].iter().map(|(score, at)| weight(*score) * values[at * dim + e]).sum::<f64>());
        }
    }
    let find = topk::Config { weights: topk::Weights::Softmax, ..topk::Config::new(rows, 2, keys, k) };
    let sum = gather::Config::new(rows, k, keys * keys, dim);
    for (backend, run) in backends() {
        let mut found = run(&find, &map(vec![("logits", logits.clone())]));
        found.insert("table", table.clone());
        let got = run(&sum, &found).remove("o").unwrap();
        let error = subquad::verify::tolerance::relative_rms(&got.to_f64(), &want);
        assert!(error < 1e-6, "{backend}: {error:.2e}");
    }
}

fn rows_are_gathered_and_those_that_are_not_there_are_zero() {
    for (rows, k, table, dim) in [(1, 1, 1, 1), (9, 8, 50, 64), (5, 3, 7, 70)] {
        for dtype in [DType::F32, DType::F16] {
            let c = gather::Config { dtype, ..gather::Config::new(rows, k, table, dim) };
            let mut indices = numbers(rows * k, table as u32);
            indices[0] = u32::MAX;
            let mut weights = normal([rows, k], 1).to_f32();
            weights[rows * k - 1] = 0.0;
            let inputs = map(vec![
                ("indices", whole([rows, k], indices)),
                ("weights", HostTensor::f32([rows, k], weights)),
                ("table", normal([table, dim], 2).cast(dtype)),
            ]);
            for (backend, run) in backends_for(dtype) {
                assert_matches(&format!("{backend}: {c:?}"), &c, &inputs, &run(&c, &inputs));
            }
        }
    }
}

fn numbers_are_sorted_stably_into_bins() {
    for (lists, len, bins) in [(1, 1, 1), (3, 100, 5), (2, 2048, 1024), (2, 2049, 3), (1, 9000, 70_000), (1, 5000, 1)] {
        let c = stable_sort::Config::new(lists, len, bins);
        // Some name no bin.
        let keys = numbers(lists * len, bins as u32 + 2);
        let inputs = map(vec![("keys", whole([lists, len], keys))]);
        for (backend, run) in backends() {
            let got = run(&c, &inputs);
            for (name, want) in c.reference(&inputs, Precision::F64, Rows::All) {
                assert_eq!(got.get(name).unwrap().to_f64(), want, "{backend}: {name} of {c:?}");
            }
        }
    }
}

fn rows_are_normed_scaled_and_gated() {
    for layout in [Layout::Bhnd, Layout::Bnhd] {
        for (scale, gated) in [
            (gated_norm::Scale::None, true),
            (gated_norm::Scale::Shared, true),
            (gated_norm::Scale::PerHead, true),
            (gated_norm::Scale::None, false),
            (gated_norm::Scale::PerHead, false),
        ] {
            for (dim, dtype) in [(1, DType::F32), (64, DType::F32), (70, DType::F32), (20, DType::F16)] {
                let c = gated_norm::Config { layout, scale, gated, dtype, ..gated_norm::Config::new(2, 3, 5, dim) };
                let shape = layout.shape(2, 3, 5, dim);
                let tensor = |stream| normal(shape.clone(), stream).cast(dtype);
                let mut inputs = map(vec![("x", tensor(0))]);
                if gated {
                    inputs.insert("gate", tensor(1));
                }
                match scale {
                    gated_norm::Scale::None => {}
                    gated_norm::Scale::Shared => inputs.insert("scale", normal([dim], 2)),
                    gated_norm::Scale::PerHead => inputs.insert("scale", normal([3, dim], 2)),
                }
                for (backend, run) in backends_for(dtype) {
                    assert_matches(&format!("{backend}: {c:?}"), &c, &inputs, &run(&c, &inputs));
                }
            }
        }
    }
}

/// A norm does not see the length of its row, and a gate far up lets all through.
fn rows_of_any_length_come_out_as_one() {
    let c = gated_norm::Config { eps: 0.0, ..gated_norm::Config::new(1, 1, 2, 8) };
    let row = normal([8], 5).to_f32();
    let x: Vec<f32> = row.iter().copied().chain(row.iter().map(|x| x * 1024.0)).collect();
    let inputs =
        map(vec![("x", HostTensor::f32([1, 1, 2, 8], x)), ("gate", HostTensor::f32([1, 1, 2, 8], vec![60.0; 16]))]);
    for (backend, run) in backends() {
        let y = run(&c, &inputs).remove("y").unwrap().to_f64();
        assert_eq!(y[..8], y[8..], "{backend}");
        let square = y[..8].iter().map(|y| y * y).sum::<f64>() / 8.0;
        assert!((square - 1.0).abs() < 1e-6, "{backend}: {square}");
    }
}

/// The layer: a memory, then norm and gate, in one encoder of the caller.
fn a_layer_records_behind_its_memory() {
    let Some(ctx) = context() else { return };
    let memory = ramnet::Config::new(1, 2, 100, 3, 20);
    let norm = gated_norm::Config { scale: gated_norm::Scale::PerHead, ..gated_norm::Config::new(1, 2, 100, 20) };
    let logits = |stream| normal([1, 2, 100, 12], stream);
    let mut inputs = map(vec![
        ("q", logits(0)),
        ("k", logits(1)),
        ("v", normal([1, 2, 100, 20], 2)),
        ("gamma", normal([1, 2, 100], 3)),
        ("gate", normal([1, 2, 100, 20], 4)),
        ("scale", normal([2, 20], 5)),
    ]);
    let upload = |name: &str| readback::upload(ctx, name, inputs.get(name).unwrap()).unwrap();
    let empty = |name| readback::empty(ctx, name, [1, 2, 100, 20], DType::F32).unwrap();
    let [q, k, v, gamma, gate, scale] = ["q", "k", "v", "gamma", "gate", "scale"].map(upload);
    let (o, y) = (empty("o"), empty("y"));
    let recorded = record(ctx, (&memory, &norm), [&q, &k, &v, &gamma, &o, &gate, &scale, &y]);
    readback::submit(ctx, recorded).unwrap();
    let got = readback::read_blocking(ctx, &y).unwrap();

    let (_, o) = memory.reference(&inputs, Precision::F64, Rows::All).remove(0);
    inputs.insert("x", HostTensor::f32([1, 2, 100, 20], o.into_iter().map(|x| x as f32).collect()));
    let (_, want) = norm.reference(&inputs, Precision::F64, Rows::All).remove(0);
    let error = subquad::verify::tolerance::relative_rms(&got.to_f64(), &want);
    assert!(error < 2e-6, "{error:.2e}");
}

fn record(
    ctx: &Context,
    (memory, norm): (&ramnet::Config, &gated_norm::Config),
    [q, k, v, gamma, o, gate, scale, y]: [&Tensor; 8],
) -> wgpu::CommandEncoder {
    let (memory, norm) = (compile(ctx, memory).unwrap(), compile(ctx, norm).unwrap());
    let mut workspace = Workspace::new();
    workspace.reserve(ctx, memory.workspace()).unwrap();
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let tensors = ramnet::Tensors::new(q, k, v, gamma, o);
    memory.bind(&Bound::from(tensors), &workspace).unwrap().encode(&mut encoder);
    let tensors = gated_norm::Tensors { x: o, gate: Some(gate), scale: Some(scale), y };
    norm.bind(&Bound::from(tensors), &workspace).unwrap().encode(&mut encoder);
    encoder
}

fn refused_before_anything_runs() {
    let caps = subquad::gpu::Caps::portable();
    let cases: [(Box<dyn Operator>, &str); 9] = [
        (Box::new(topk::Config::new(3, 2, 4, 17)), "topk: `topk`: expected 1 to the 16 addresses, found 17"),
        (Box::new(topk::Config::new(3, 2, 400, 65)), "topk: `topk`: expected 1 to 64, found 65"),
        (Box::new(topk::Config::new(3, 9, 64, 1)), "topk: `choices`: expected 1 to 2^31 addresses P^U, found 64^9"),
        (
            Box::new(topk::Config { tau: 0.0, ..topk::Config::new(3, 2, 4, 1) }),
            "topk: `tau`: expected a finite number over 0, found 0",
        ),
        (Box::new(gather::Config::new(0, 1, 1, 1)), "gather: `rows`: expected 1 or more, found 0"),
        (Box::new(stable_sort::Config::new(1, 0, 1)), "stable_sort: `len`: expected 1 to 1073741824, found 0"),
        (
            Box::new(stable_sort::Config::new(1, 1, 1 << 21)),
            "stable_sort: `bins`: expected 1 to 2097150, found 2097152",
        ),
        (Box::new(gated_norm::Config::new(1, 0, 1, 1)), "gated_norm: `H`: expected 1 or more, found 0"),
        (
            Box::new(gated_norm::Config { eps: -1.0, ..gated_norm::Config::new(1, 1, 1, 1) }),
            "gated_norm: `eps`: expected a finite number of 0 or more, found -1",
        ),
    ];
    for (part, sentence) in cases {
        assert_eq!(part.program(&caps).unwrap_err().to_string(), sentence);
        assert_eq!(part.cpu(&TensorMap::new()).unwrap_err().to_string(), sentence);
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(the_beam_is_all_sums_sorted_ties_by_address),
        test(the_beam_orders_what_is_not_finite),
        test(addresses_weigh_what_the_definition_says),
        test(product_keys_are_two_digits_and_a_gather),
        test(rows_are_gathered_and_those_that_are_not_there_are_zero),
        test(numbers_are_sorted_stably_into_bins),
        test(rows_are_normed_scaled_and_gated),
        test(rows_of_any_length_come_out_as_one),
        test(a_layer_records_behind_its_memory),
        test(refused_before_anything_runs),
    ]
}
