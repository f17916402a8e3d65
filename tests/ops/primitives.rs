//! Parts of memories, alone: each against its definition, that against something else.

use libtest_mimic::Trial;
use subquad::catalog::random;
use subquad::gpu::{Context, Workspace, readback};
use subquad::operator::Bound;
use subquad::operator::{Operator, Precision, Rows, compile};
use subquad::ops::primitives::{Tokens, gated_norm, gather, quantize, stable_sort, topk};
use subquad::ops::ramnet;
use subquad::tensor::{DType, HostTensor, Layout, Shape, Tensor, TensorMap, Values};

use crate::support::{assert_matches, backends, backends_for, context, on_gpu_with, test};

pub(crate) fn normal(shape: impl Into<Shape>, stream: u64) -> HostTensor {
    let shape = shape.into();
    HostTensor::f32(shape.clone(), random::normal(21, stream, shape.count()))
}

pub(crate) fn map(tensors: Vec<(&str, HostTensor)>) -> TensorMap {
    tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

pub(crate) fn whole(shape: impl Into<Shape>, values: Vec<i32>) -> HostTensor {
    HostTensor::new(shape, Values::I32(values))
}

/// Numbers below `most`, the same ones in every run.
pub(crate) fn numbers(count: usize, most: u32) -> Vec<i32> {
    let mut x = 12345u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((x >> 8) % most) as i32
    };
    (0..count).map(|_| next()).collect()
}

/// Logits in eighths, so that sums are exact and many are equal.
fn tied([rows, width]: [usize; 2], most: u32) -> HostTensor {
    let values = numbers(rows * width, most);
    HostTensor::f32([1, 1, rows, width], values.into_iter().map(|x| x as f32 / 8.0 - 1.0).collect())
}

fn the_beam_is_all_sums_sorted_ties_by_address() {
    for (digits, choices, most_tied) in [(5, 4, 3), (3, 7, 4), (2, 16, 5), (1, 300, 9), (11, 2, 2), (2, 64, 1)] {
        for topk in [1, 5, 16, 64] {
            let c = topk::Config::new(7, digits, choices, topk);
            if c.validate().is_err() {
                continue;
            }
            let logits = tied([7, digits * choices], most_tied);
            let inputs = map(vec![("q", logits.clone())]);
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
            assert_eq!(definition[0], ("index", want.clone()), "{c:?}");
            for (backend, run) in backends() {
                let got = run(&c, &inputs);
                assert_eq!(got.get("index").unwrap().to_f64(), want, "{backend}: {c:?}");
            }
        }
    }
}

/// Zeros of both signs are equal, infinities are sums, NaN is no better than anything.
fn the_beam_orders_what_is_not_finite() {
    let c = topk::Config { weights: topk::Weights::Softmax, ..topk::Config::new(3, 1, 5, 5) };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let rows = vec![0.0, -0.0, 1.0, -0.0, 0.0, nan, -inf, 3.0, nan, -3.0, 2.0, -inf, -inf, 2.0, -1.0];
    let inputs = map(vec![("q", HostTensor::f32([1, 1, 3, 5], rows))]);
    for (backend, run) in backends() {
        let got = run(&c, &inputs).get("index").unwrap().to_f64();
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
                let inputs = map(vec![("q", normal([1, 1, 11, digits * choices], 0).cast(dtype))]);
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
    let logits = normal([1, 1, rows, 2 * keys], 3);
    let table = normal([1, 1, keys * keys, dim], 4);
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
        let mut found = run(&find, &map(vec![("q", logits.clone())]));
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
            let mut weights = normal([rows * k], 1).to_f32();
            weights[rows * k - 1] = 0.0;
            let mut inputs = map(vec![
                ("index", whole([1, 1, rows, k], numbers(rows * k, table as u32))),
                ("weight", HostTensor::f32([1, 1, rows, k], weights.clone())),
                ("table", normal([1, 1, table, dim], 2).cast(dtype)),
            ]);
            for (backend, run) in backends_for(dtype) {
                assert_matches(&format!("{backend}: {c:?}"), &c, &inputs, &run(&c, &inputs));
            }
            // In a plan, an index beyond the table is a row of zeros, as if its weight were 0.
            let Some(ctx) = context().filter(|ctx| dtype == DType::F32 || ctx.caps().f16) else { continue };
            weights[0] = 0.0;
            inputs.insert("weight", HostTensor::f32([1, 1, rows, k], weights.clone()));
            let want = c.cpu(&inputs).unwrap();
            for beyond in [-1, table as i32] {
                let mut indices = numbers(rows * k, table as u32);
                indices[0] = beyond;
                inputs.insert("index", whole([1, 1, rows, k], indices));
                weights[0] = 1.0;
                inputs.insert("weight", HostTensor::f32([1, 1, rows, k], weights.clone()));
                let got = on_gpu_with(ctx, c.program(ctx.caps()).unwrap(), &inputs);
                let error = subquad::verify::tolerance::relative_rms(
                    &got.get("o").unwrap().to_f64(),
                    &want.get("o").unwrap().to_f64(),
                );
                assert!(error < if dtype == DType::F32 { 1e-6 } else { 1e-3 }, "{beyond}: {c:?}: {error:.2e}");
            }
        }
    }
}

fn numbers_are_sorted_stably_into_bins() {
    for (lists, len, bins) in [(1, 1, 1), (3, 100, 5), (2, 2048, 1024), (2, 2049, 3), (1, 9000, 70_000), (1, 5000, 1)] {
        let c = stable_sort::Config::new(1, lists, len, bins);
        let keys = numbers(lists * len, bins as u32);
        let inputs = map(vec![("bins", whole([1, lists, len], keys.clone()))]);
        for (backend, run) in backends() {
            let got = run(&c, &inputs);
            for (name, want) in c.reference(&inputs, Precision::F64, Rows::All) {
                assert_eq!(got.get(name).unwrap().to_f64(), want, "{backend}: {name} of {c:?}");
            }
        }
        // In a plan, a number that is not a bin is sorted after all bins: as if there were one more.
        let Some(ctx) = context() else { continue };
        let beyond: Vec<i32> = keys.iter().map(|key| if key % 7 == 3 { -1 } else { *key }).collect();
        let got = on_gpu_with(
            ctx,
            c.program(ctx.caps()).unwrap(),
            &map(vec![("bins", whole([1, lists, len], beyond.clone()))]),
        );
        let more = stable_sort::Config::new(1, lists, len, bins + 1);
        let last = beyond.iter().map(|key| if *key < 0 { bins as i32 } else { *key }).collect();
        let want = more.cpu(&map(vec![("bins", whole([1, lists, len], last))])).unwrap();
        assert_eq!(got.get("order"), want.get("order"), "{c:?}");
    }
}

fn rows_are_normed_scaled_and_gated() {
    for layout in [Layout::Bhnd, Layout::Bnhd] {
        for (weight, gate) in [
            (gated_norm::Weight::None, Some(gated_norm::Gate::Sigmoid)),
            (gated_norm::Weight::Shared, Some(gated_norm::Gate::Sigmoid)),
            (gated_norm::Weight::PerHead, Some(gated_norm::Gate::Sigmoid)),
            (gated_norm::Weight::None, None),
            (gated_norm::Weight::PerHead, None),
        ] {
            for (dim, dtype) in [(1, DType::F32), (64, DType::F32), (70, DType::F32), (20, DType::F16)] {
                let tokens = Tokens::new(2, 3, 5).layout(layout);
                let c = gated_norm::Config { weight, gate, dtype, ..gated_norm::Config::new(tokens, dim) };
                let shape = layout.shape(2, 3, 5, dim);
                let tensor = |stream| normal(shape.clone(), stream).cast(dtype);
                let mut inputs = map(vec![("x", tensor(0))]);
                if gate.is_some() {
                    inputs.insert("gate", tensor(1));
                }
                match weight {
                    gated_norm::Weight::None => {}
                    gated_norm::Weight::Shared => inputs.insert("weight", normal([dim], 2)),
                    gated_norm::Weight::PerHead => inputs.insert("weight", normal([3, dim], 2)),
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
    let c = gated_norm::Config { eps: 0.0, ..gated_norm::Config::new(2, 8) };
    let row = normal([8], 5).to_f32();
    let x: Vec<f32> = row.iter().copied().chain(row.iter().map(|x| x * 1024.0)).collect();
    let inputs =
        map(vec![("x", HostTensor::f32([1, 1, 2, 8], x)), ("gate", HostTensor::f32([1, 1, 2, 8], vec![60.0; 16]))]);
    for (backend, run) in backends() {
        let y = run(&c, &inputs).remove("o").unwrap().to_f64();
        assert_eq!(y[..8], y[8..], "{backend}");
        let square = y[..8].iter().map(|y| y * y).sum::<f64>() / 8.0;
        assert!((square - 1.0).abs() < 1e-6, "{backend}: {square}");
    }
}

/// The layer: a memory, then norm and gate, in one encoder of the caller.
fn a_layer_records_behind_its_memory() {
    let Some(ctx) = context() else { return };
    let memory = ramnet::Config::new(1, 2, 100, 3, 20);
    let weight = gated_norm::Weight::PerHead;
    let norm = gated_norm::Config { weight, ..gated_norm::Config::new(Tokens::new(1, 2, 100), 20) };
    let logits = |stream| normal([1, 2, 100, 12], stream);
    let mut inputs = map(vec![
        ("q", logits(0)),
        ("k", logits(1)),
        ("v", normal([1, 2, 100, 20], 2)),
        ("gamma", normal([1, 2, 100], 3)),
        ("gate", normal([1, 2, 100, 20], 4)),
        ("weight", normal([2, 20], 5)),
    ]);
    let upload = |name: &str| readback::upload(ctx, name, inputs.get(name).unwrap()).unwrap();
    let empty = |name| readback::empty(ctx, name, [1, 2, 100, 20], DType::F32).unwrap();
    let [q, k, v, gamma, gate, weight] = ["q", "k", "v", "gamma", "gate", "weight"].map(upload);
    let (o, y) = (empty("o"), empty("y"));
    let recorded = record(ctx, (&memory, &norm), [&q, &k, &v, &gamma, &o, &gate, &weight, &y]);
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
    [q, k, v, gamma, o, gate, weight, y]: [&Tensor; 8],
) -> wgpu::CommandEncoder {
    let (memory, norm) = (compile(ctx, memory).unwrap(), compile(ctx, norm).unwrap());
    let mut workspace = Workspace::new();
    workspace.reserve(ctx, memory.workspace()).unwrap();
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let tensors = ramnet::Tensors::new(q, k, v, gamma, o);
    memory.bind(&Bound::from(tensors), &workspace).unwrap().encode(&mut encoder);
    let tensors = gated_norm::Tensors { gate: Some(gate), weight: Some(weight), ..gated_norm::Tensors::new(o, y) };
    norm.bind(&Bound::from(tensors), &workspace).unwrap().encode(&mut encoder);
    encoder
}

/// The nearest codes of rows by a codebook, on every backend, with those that the definition has.
fn nearest(x: &HostTensor, book: &HostTensor) -> Vec<i32> {
    let (rows, dim) = (x.shape().dims()[2], x.shape().dims()[3]);
    let c = quantize::Config::new(rows, book.shape().dims()[0], dim);
    let inputs = map(vec![("x", x.clone()), ("codebook", book.clone())]);
    let mut codes = c.reference(&inputs, Precision::F64, Rows::All).remove(0).1;
    for (backend, run) in backends() {
        let got = run(&c, &inputs);
        assert_eq!(got.get("code").unwrap().to_f64(), codes, "{backend}: {c:?}");
        let (o, book) = (got.get("o").unwrap().to_f32(), book.to_f32());
        for (o, code) in o.chunks_exact(dim).zip(&codes) {
            let want = &book[*code as usize * dim..][..dim];
            assert!(o.iter().zip(want).all(|(o, want)| o.to_bits() == want.to_bits()), "{backend}: {c:?}");
        }
    }
    codes.drain(..).map(|code| code as i32).collect()
}

/// Duplicate codes, rows in the middle of two codes, and sums of the same squares in another order, whose f32 sums differ.
fn of_equally_near_codes_the_lower_one_is_taken() {
    let row = |values: &[f32]| HostTensor::f32([1, 1, 1, values.len()], values.to_vec());
    for copies in [2, 64, 65, 130, 700] {
        let code = normal([37], 8).to_f32();
        let mut book = normal([3, 37], 9).to_f32().iter().map(|x| x * 9.0).collect::<Vec<_>>();
        (0..copies).for_each(|_| book.extend(&code));
        assert_eq!(nearest(&row(&code), &HostTensor::f32([copies + 3, 37], book)), [3]);
    }
    // 3 lies between 1 and 5.
    assert_eq!(nearest(&row(&[3.0, 1.0]), &HostTensor::f32([3, 2], vec![9.0, 1.0, 5.0, 1.0, 1.0, 1.0])), [1]);
    for turn in 1..6 {
        let code: Vec<f32> = (0..6).map(|i| 1.0 / (3.0 + i as f32)).collect();
        let mut other = code.clone();
        other.rotate_left(turn);
        let mut book = [vec![1.0; 6], other, code].concat();
        assert_eq!(nearest(&row(&[0.0; 6]), &HostTensor::f32([3, 6], book.clone())), [1], "{turn}");
        // The smallest change of the second one breaks the tie.
        book[12] = book[12].next_down();
        assert_eq!(nearest(&row(&[0.0; 6]), &HostTensor::f32([3, 6], book)), [2], "{turn}");
    }
}

/// Distances that differ by less than f32 rounds, that overflow f32, or that are too small for it.
fn the_nearest_code_is_that_of_exact_arithmetic() {
    for (scale, offset) in [(1.0, 0.0), (1.0, 1e4), (3e37, 0.0), (1e-38, 0.0), (1e-44, 0.0)] {
        for dim in [3, 70] {
            let place = |values: Vec<f32>| values.iter().map(|x| x * scale + offset).collect::<Vec<_>>();
            let x = place(normal([5 * dim], 11).to_f32());
            let mut book = place(normal([90 * dim], 12).to_f32());
            // Codes beside the best one: one number of each is another, by one unit in the last place.
            let row = HostTensor::f32([1, 1, 5, dim], x);
            let first = nearest(&row, &HostTensor::f32([90, dim], book.clone()));
            for (at, &code) in first.iter().enumerate() {
                let mut near = book[code as usize * dim..][..dim].to_vec();
                let e = at % dim;
                near[e] = if at % 2 == 0 { near[e].next_up() } else { near[e].next_down() };
                book.extend(near);
            }
            nearest(&row, &HostTensor::f32([95, dim], book));
        }
    }
}

/// A code with a NaN or an infinity is nearest to nothing; without any other code, and for such a row, the code is 0.
fn codes_that_are_not_finite_are_nearest_to_nothing() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let book = HostTensor::f32([5, 2], vec![nan, 0.0, inf, 1.0, 4.0, 4.0, 1.0, -inf, 1.0, 1.0]);
    let x = vec![0.0, 0.0, 3.0, 3.0, nan, 4.0, -inf, 4.0, inf, 1.0];
    assert_eq!(nearest(&HostTensor::f32([1, 1, 5, 2], x), &book), [4, 2, 0, 0, 0]);
    let book = HostTensor::f32([3, 2], vec![nan, 0.0, inf, 1.0, 0.0, nan]);
    assert_eq!(nearest(&HostTensor::f32([1, 1, 2, 2], vec![1.0, 1.0, nan, 0.0]), &book), [0, 0]);
}

fn values_that_name_nothing_are_refused() {
    let sort = stable_sort::Config::new(1, 1, 3, 4);
    let gather = gather::Config::new(1, 2, 5, 1);
    let one = HostTensor::f32([1, 1, 1, 2], vec![1.0; 2]);
    let table = HostTensor::f32([1, 1, 5, 1], vec![1.0; 5]);
    let bins = |values| map(vec![("bins", whole([1, 1, 3], values))]);
    let index =
        |values| map(vec![("index", whole([1, 1, 1, 2], values)), ("weight", one.clone()), ("table", table.clone())]);
    let cases: [(&dyn Operator, TensorMap, &str); 4] = [
        (&sort, bins(vec![0, 3, 4]), "sort: tensor `bins`: expected whole numbers from 0 to 3, found 4 at 2"),
        (&sort, bins(vec![0, -1, 4]), "sort: tensor `bins`: expected whole numbers from 0 to 3, found -1 at 1"),
        (&gather, index(vec![4, 5]), "gather: tensor `index`: expected whole numbers from 0 to 4, found 5 at 1"),
        (&gather, index(vec![-7, 5]), "gather: tensor `index`: expected whole numbers from 0 to 4, found -7 at 0"),
    ];
    for (part, inputs, sentence) in cases {
        assert_eq!(part.cpu(&inputs).unwrap_err().to_string(), sentence);
        if let Some(ctx) = context() {
            let ran = subquad::verify::run::gpu(ctx, part, &inputs, false, &mut |_| {});
            assert_eq!(ran.unwrap_err().to_string(), sentence);
        }
    }
}

fn refused_before_anything_runs() {
    let caps = subquad::gpu::Caps::portable();
    let cases: [(Box<dyn Operator>, &str); 12] = [
        (Box::new(topk::Config::new(3, 2, 4, 17)), "topk: `topk`: expected 1 to the 16 addresses, found 17"),
        (Box::new(topk::Config::new(3, 2, 400, 65)), "topk: `topk`: expected 1 to 64, found 65"),
        (Box::new(topk::Config::new(3, 9, 64, 1)), "topk: `choices`: expected 1 to 2^31 addresses P^U, found 64^9"),
        (
            Box::new(topk::Config { tau: 0.0, ..topk::Config::new(3, 2, 4, 1) }),
            "topk: `tau`: expected a finite number over 0, found 0",
        ),
        (Box::new(gather::Config::new(0, 1, 1, 1)), "gather: `N`: expected 1 or more, found 0"),
        (
            Box::new(gather::Config { tables: [1, 2], ..gather::Config::new(Tokens::new(2, 3, 1), 1, 1, 1) }),
            "gather: tensor `table`: expected 1 or H = 3 tables along H, as index has, found 2",
        ),
        (Box::new(stable_sort::Config::new(1, 1, 0, 1)), "sort: `N`: expected 1 to 1073741824, found 0"),
        (Box::new(stable_sort::Config::new(1, 1, 1, 1 << 21)), "sort: `bins`: expected 1 to 2097150, found 2097152"),
        (Box::new(gated_norm::Config::new(Tokens::new(1, 0, 1), 1)), "norm: `H`: expected 1 or more, found 0"),
        (Box::new(quantize::Config::new(1, 0, 1)), "quantize: `C`: expected 1 or more, found 0"),
        (Box::new(quantize::Config::new(1, 1, 1025)), "quantize: `E`: expected 1 to 1024, found 1025"),
        (
            Box::new(gated_norm::Config { eps: -1.0, ..gated_norm::Config::new(1, 1) }),
            "norm: `eps`: expected a finite number of 0 or more, found -1",
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
        test(of_equally_near_codes_the_lower_one_is_taken),
        test(the_nearest_code_is_that_of_exact_arithmetic),
        test(codes_that_are_not_finite_are_nearest_to_nothing),
        test(values_that_name_nothing_are_refused),
        test(refused_before_anything_runs),
    ]
}
