//! Parts of whole models, alone: norms of hidden states, embeddings, rotary positions and the key/value cache.

use libtest_mimic::Trial;
use subquad::gpu::{Caps, Context, Workspace, readback};
use subquad::operator::{Operator, Precision, Rows, compile};
use subquad::ops::primitives::gated_norm::{Gate, Kind, Weight};
use subquad::ops::primitives::{Tokens, embedding, gated_norm, rope};
use subquad::tensor::{DType, HostTensor, Layout, Tensor, TensorMap, Values};

use crate::bytes::moved_by;
use crate::primitives::{map, normal, numbers, whole};
use crate::support::{assert_matches, assert_same_bits, backends, backends_for, context, on_gpu_with, test};

fn count(value: u32) -> HostTensor {
    HostTensor::new([1], Values::U32(vec![value]))
}

/// What a part with this input, with the others as they are, has for this output.
fn written(part: &dyn Operator, inputs: &TensorMap, output: &str) -> Vec<(&'static str, HostTensor)> {
    backends().into_iter().map(|(backend, run)| (backend, run(part, inputs).remove(output).unwrap())).collect()
}

fn norms_of_every_kind_are_their_definition() {
    let weights = [(Weight::None, Weight::None), (Weight::Shared, Weight::PerHead), (Weight::PerHead, Weight::Shared)];
    for (kind, gate) in [(Kind::None, Some(Gate::Silu)), (Kind::Rms, Some(Gate::Silu)), (Kind::Layer, None)] {
        for (at, (weight, bias)) in weights.into_iter().enumerate() {
            for (dim, dtype) in [(24, DType::F32), (301, DType::F32), (516, DType::F16)] {
                let layout = if at == 1 { Layout::Bnhd } else { Layout::Bhnd };
                let tokens = Tokens::new(2, 3, 2).layout(layout);
                let c = gated_norm::Config { kind, gate, weight, bias, dtype, ..gated_norm::Config::new(tokens, dim) };
                let tensor = |stream| normal(layout.shape(2, 3, 2, dim), stream).cast(dtype);
                let mut inputs = map(vec![("x", tensor(0))]);
                gate.into_iter().for_each(|_| inputs.insert("gate", tensor(1)));
                for (name, of) in [("weight", weight), ("bias", bias)] {
                    match of {
                        Weight::None => {}
                        Weight::Shared => inputs.insert(name, normal([dim], 2)),
                        Weight::PerHead => inputs.insert(name, normal([3, dim], 3)),
                    }
                }
                for (backend, run) in backends_for(dtype) {
                    assert_matches(&format!("{backend}: {c:?}"), &c, &inputs, &run(&c, &inputs));
                }
            }
        }
    }
}

/// The mean is 4096 and the deviation about 1: a variance from mean squares would have no digit right.
fn a_variance_is_right_far_from_zero() {
    for dim in [60, 64, 768, 771] {
        let c = gated_norm::Config { kind: Kind::Layer, gate: None, eps: 0.0, ..gated_norm::Config::new(3, dim) };
        let x: Vec<f32> = numbers(3 * dim, 64).into_iter().map(|x| 4096.0 + x as f32 / 16.0).collect();
        let mut want = Vec::new();
        for row in x.chunks_exact(dim) {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / dim as f64;
            let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / dim as f64;
            want.extend(row.iter().map(|x| (f64::from(*x) - mean) / variance.sqrt()));
        }
        let inputs = map(vec![("x", HostTensor::f32([1, 1, 3, dim], x))]);
        for (backend, o) in written(&c, &inputs, "o") {
            // Sums of such numbers have an error of some 1e-4 per number.
            let error = subquad::verify::tolerance::relative_rms(&o.to_f64(), &want);
            assert!(error < 1e-3, "{backend}: {dim}: {error:.2e}");
        }
    }
}

/// Gates far away on both sides: the activation is 0, 1 or the gate, and never NaN.
fn gates_far_away_are_finite() {
    for gate in [Gate::Sigmoid, Gate::Silu] {
        let config = gated_norm::Config { kind: Kind::None, gate: Some(gate), ..gated_norm::Config::new(1, 6) };
        let far = vec![-3e38, -1000.0, -88.0, 88.0, 1000.0, 3e38];
        let one = HostTensor::f32([1, 1, 1, 6], vec![1.0; 6]);
        let inputs = map(vec![("x", one), ("gate", HostTensor::f32([1, 1, 1, 6], far.clone()))]);
        for (backend, o) in written(&config, &inputs, "o") {
            let o = o.to_f32();
            assert!(o[..3].iter().all(|o| o.abs() < 1e-35), "{backend}: {gate:?}: {o:?}");
            let want = |x: f32| if gate == Gate::Silu { x } else { 1.0 };
            assert!(o[3..].iter().zip(&far[3..]).all(|(o, x)| *o == want(*x)), "{backend}: {gate:?}: {o:?}");
        }
    }
}

/// Columns of a projection, of which a tensor takes some: a tensor for each part of these widths, from a start that is `odd` by
/// so many elements.
fn columns_of(
    ctx: &Context,
    projection: &HostTensor,
    parts: &[(usize, usize, usize)],
    odd: usize,
) -> Vec<(Tensor, HostTensor)> {
    let [tokens, width] = *projection.shape().dims() else { panic!("a projection has two axes") };
    let values = projection.to_f32();
    let mut home = vec![0.0; odd];
    home.extend(&values);
    home.push(0.0);
    let home = readback::upload(ctx, "projection", &HostTensor::f32([home.len()], home)).unwrap();
    let one = |&(start, heads, dim): &(usize, usize, usize)| {
        let shape = [1, tokens, heads, dim];
        let offset = 4 * (odd + start) as u64;
        let tensor = Tensor::strided(home.buffer(), offset, shape, [0, width, dim, 1], DType::F32).unwrap();
        let cut = values.chunks_exact(width).flat_map(|row| row[start..start + heads * dim].to_vec()).collect();
        (tensor, HostTensor::f32(shape, cut))
    };
    parts.iter().map(one).collect()
}

/// Runs a part once on tensors of the GPU; those that it writes are new.
fn run_on(ctx: &Context, part: &dyn Operator, given: &[(&str, &Tensor)]) -> Vec<(&'static str, HostTensor)> {
    let plan = compile(ctx, part).unwrap();
    let new = |slot: &subquad::tensor::Slot| {
        let is_given = given.iter().any(|(name, _)| *name == slot.name);
        (!is_given).then(|| (slot.name, readback::empty(ctx, slot.name, slot.shape(), slot.dtype).unwrap()))
    };
    let new: Vec<_> = plan.slots().iter().filter_map(new).collect();
    let mut named = given.to_vec();
    named.extend(new.iter().map(|(name, tensor)| (*name, tensor)));
    let mut workspace = Workspace::new();
    workspace.reserve(ctx, plan.workspace()).unwrap();
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    plan.bind(&named, &workspace).unwrap().encode(&mut encoder);
    readback::submit(ctx, encoder).unwrap();
    new.iter().map(|(name, tensor)| (*name, readback::read_blocking(ctx, tensor).unwrap())).collect()
}

/// Outputs are those of contiguous tensors: on strides and starts that are multiples of four, and on others.
fn columns_of_a_projection_are_taken_in_place() {
    let Some(ctx) = context() else { return };
    let (tokens, heads, groups, dim) = (5, 4, 2, 24);
    for (odd, width) in [(0, (heads + 2 * groups) * dim), (3, (heads + 2 * groups) * dim + 1)] {
        let projection = normal([tokens, width], 31);
        let (k, v) = (heads * dim, (heads + groups) * dim);
        let parts = columns_of(ctx, &projection, &[(0, heads, dim), (k, groups, dim), (v, groups, dim)], odd);
        let [(q, host_q), (k, host_k), (v, host_v)] = &parts[..] else { panic!("three parts") };

        let turned = rope::Config { cache: Some(tokens + 2), ..rope::Config::new(tokens, heads, groups, dim) };
        let inputs = map(vec![("q", host_q.clone()), ("k", host_k.clone()), ("v", host_v.clone())]);
        let want = on_gpu_with(ctx, turned.program(ctx.caps()).unwrap(), &inputs);
        for (name, got) in run_on(ctx, &turned, &[("q", q), ("k", k), ("v", v)]) {
            assert_same_bits(&format!("rope, {odd}: {name}"), &got, want.get(name).unwrap());
        }

        let normed = Tokens::new(1, groups, tokens).layout(Layout::Bnhd);
        let normed = gated_norm::Config { gate: Some(Gate::Silu), ..gated_norm::Config::new(normed, dim) };
        let inputs = map(vec![("x", host_k.clone()), ("gate", host_v.clone())]);
        for (name, got) in run_on(ctx, &normed, &[("x", k), ("gate", v)]) {
            // The order of a sum is another where an invocation has one column and not four.
            assert_matches(&format!("norm, {odd}"), &normed, &inputs, &map(vec![(name, got)]));
        }
    }
}

fn embeddings_of_either_storage_are_their_definition() {
    for (dim, table_dtype, dtype) in [
        (24, DType::F16, DType::F32),
        (7, DType::F16, DType::F32),
        (24, DType::F32, DType::F16),
        (24, DType::F16, DType::F16),
    ] {
        let positions = Some(20);
        let c = embedding::Config { table_dtype, dtype, scale: 1.5, positions, ..embedding::Config::new(9, 33, dim) };
        let inputs = map(vec![
            ("index", whole([9], numbers(9, 33))),
            ("table", normal([33, dim], 1).cast(table_dtype)),
            ("positions", normal([20, dim], 2)),
        ]);
        for (backend, run) in backends_for(dtype) {
            assert_matches(&format!("{backend}: {c:?}"), &c, &inputs, &run(&c, &inputs));
        }
        // A table of f16 needs no f16 of the device.
        let portable = c.program(&Caps::portable()).map(drop).map_err(|error| error.to_string());
        assert_eq!(portable.is_ok(), dtype == DType::F32, "{portable:?}");
    }
}

/// A table over the binding limit gives the same bits in parts.
fn a_table_of_any_size_is_read_in_parts() {
    let Some(ctx) = context() else { return };
    for (dim, table_dtype) in [(24, DType::F32), (7, DType::F32), (7, DType::F16), (20, DType::F16)] {
        let c = embedding::Config { table_dtype, ..embedding::Config::new(70, 301, dim) };
        let inputs =
            map(vec![("index", whole([70], numbers(70, 301))), ("table", normal([301, dim], 1).cast(table_dtype))]);
        let row = (dim * table_dtype.size()) as u64;
        let limits = |bytes| wgpu::Limits { max_storage_buffer_binding_size: bytes, ..ctx.caps().limits.clone() };
        let program = |bytes| c.program(&Caps { limits: limits(bytes), ..ctx.caps().clone() });
        let whole = on_gpu_with(ctx, c.program(ctx.caps()).unwrap(), &inputs);
        let cut = program(100 * row).unwrap();
        assert!(cut.steps().len() >= 4, "{cut}");
        assert!(cut.variant().ends_with("parts of the table"), "{cut}");
        let (stated, [read, wrote]) = moved_by(ctx, cut.clone(), &inputs);
        // The parts have shares of what is stated, which are not whole.
        let differ = (read - stated.bytes_read).abs() + (wrote - stated.bytes_written).abs();
        assert!(differ < 0.01, "{dim} {table_dtype}: {read}, {wrote}, {stated:?}");
        let got = on_gpu_with(ctx, cut, &inputs);
        assert_same_bits(&format!("{dim} {table_dtype}"), got.get("o").unwrap(), whole.get("o").unwrap());
        let error = program(row - 1).unwrap_err().to_string();
        assert!(error.starts_with("embedding: tensor `table` (bytes of one row) needs "), "{error}");
    }
}

/// Plans on a GPU see no values: whatever names no row takes the last one.
fn what_names_no_row_takes_the_last_one() {
    let Some(ctx) = context() else { return };
    let c = embedding::Config { positions: Some(5), carry: true, ..embedding::Config::new(4, 6, 8) };
    let given = |index, position| {
        map(vec![
            ("index", whole([4], index)),
            ("table", normal([6, 8], 1)),
            ("positions", normal([5, 8], 2)),
            ("position", count(position)),
        ])
    };
    let inputs = given(vec![0, 6, -1, i32::MAX], 3);
    let got = on_gpu_with(ctx, c.program(ctx.caps()).unwrap(), &inputs).remove("o").unwrap().to_f32();
    let (table, positions) = (inputs.get("table").unwrap().to_f32(), inputs.get("positions").unwrap().to_f32());
    for (n, (row, position)) in [(0, 3), (5, 4), (5, 4), (5, 4)].into_iter().enumerate() {
        let want: Vec<f32> = (0..8).map(|e| table[row * 8 + e] + positions[position * 8 + e]).collect();
        assert_eq!(got[n * 8..(n + 1) * 8], want, "{n}");
    }
    // Runs from the host refuse these.
    let refused = |inputs: &TensorMap| c.cpu(inputs).unwrap_err().to_string();
    assert_eq!(refused(&inputs), "embedding: tensor `index`: expected whole numbers from 0 to 5, found 6 at 1");
    let far = refused(&given(vec![0; 4], 2));
    assert_eq!(far, "embedding: tensor `positions`: expected 6 rows or more, one per token, found 5");
    let most = refused(&given(vec![0; 4], u32::MAX - 3));
    assert_eq!(most, "embedding: tensor `position`: expected a number of tokens up to 4294967291, found 4294967292");
}

/// A sequence in pieces: `position` counts the tokens of all, and every output is that of the whole.
fn a_sequence_in_pieces_is_the_whole() {
    let (len, heads, groups, dim, dim_v) = (11, 4, 2, 24, 20);
    let embed =
        |tokens| embedding::Config { positions: Some(len), carry: true, ..embedding::Config::new(tokens, 33, dim) };
    let turn = |tokens| rope::Config {
        dim_v,
        cache: Some(len),
        position: true,
        ..rope::Config::new(tokens, heads, groups, dim)
    };
    let (index, q) = (numbers(len, 33), normal([1, len, heads, dim], 1));
    let (k, v) = (normal([1, len, groups, dim], 2), normal([1, len, groups, dim_v], 3));
    for (backend, run) in backends() {
        let pieces = |lengths: &[usize]| {
            let (mut first, mut rows, mut turned) = (0, Vec::new(), Vec::new());
            let mut state = TensorMap::new();
            for &tokens in lengths {
                let cut = |tensor: &HostTensor| crate::support::cut(tensor, 1, first, first + tokens);
                let mut inputs = map(vec![
                    ("index", whole([tokens], index[first..first + tokens].to_vec())),
                    ("table", normal([33, dim], 4)),
                    ("positions", normal([len, dim], 5)),
                ]);
                state.get("position").into_iter().for_each(|position| inputs.insert("position", position.clone()));
                let what = format!("{backend}: {tokens} tokens after {first}");
                let out = run(&embed(tokens), &inputs);
                assert_matches(&what, &embed(tokens), &inputs, &out);
                rows.extend(out.get("o").unwrap().to_f32());
                state.insert("position", out.get("position").unwrap().clone());
                for (name, tensor) in [("q", &q), ("k", &k), ("v", &v)] {
                    state.insert(name, cut(tensor));
                }
                let out = run(&turn(tokens), &state);
                assert_matches(&what, &turn(tokens), &state, &out);
                turned.extend(out.get("q_out").unwrap().to_f32());
                ["k_cache", "v_cache"].into_iter().for_each(|name| state.insert(name, out.get(name).unwrap().clone()));
                first += tokens;
            }
            assert_eq!(state.get("position"), Some(&count(len as u32)), "{backend}");
            let caches = ["k_cache", "v_cache"].map(|name| state.get(name).unwrap().to_f32());
            (rows, turned, caches)
        };
        let all = pieces(&[len]);
        assert_eq!(all.2[1], v.to_f32(), "{backend}: values are copied");
        assert_eq!(pieces(&[6, 1, 4]), all, "{backend}");
    }
}

/// The embedding counts the tokens of a pass, and what follows in the same encoder finds the number.
fn a_pass_counts_its_tokens_first() {
    let Some(ctx) = context() else { return };
    let (tokens, dim) = (3, 8);
    let embed = embedding::Config { carry: true, ..embedding::Config::new(tokens, 9, dim) };
    let turn = rope::Config { cache: Some(7), position: true, ..rope::Config::new(tokens, 1, 1, dim) };
    let (embed, turn) = (embed.plan(ctx).unwrap(), turn.plan(ctx).unwrap());
    let upload = |name: &str, tensor: &HostTensor| readback::upload(ctx, name, tensor).unwrap();
    let empty = |name: &str, rows: usize| readback::empty(ctx, name, [1, rows, 1, dim], DType::F32).unwrap();
    let (index, table) = (upload("index", &whole([tokens], numbers(tokens, 9))), upload("table", &normal([9, dim], 1)));
    let o = readback::empty(ctx, "o", [tokens, dim], DType::F32).unwrap();
    let position = embed.new_state().unwrap();
    let (k, v) = (upload("k", &normal([1, tokens, 1, dim], 2)), upload("v", &normal([1, tokens, 1, dim], 3)));
    let (q_out, k_cache, v_cache) = (empty("q_out", tokens), empty("k_cache", 7), empty("v_cache", 7));
    let lookup = embedding::Tensors { position: Some(&position), ..embedding::Tensors::new(&index, &table, &o) };
    let lookup = embed.bind(lookup).unwrap();
    let tensors = rope::Tensors {
        q: Some(&k),
        q_out: Some(&q_out),
        v: Some(&v),
        k_cache: Some(&k_cache),
        v_cache: Some(&v_cache),
        position: Some(&position),
        ..rope::Tensors::new(&k)
    };
    let turn = turn.bind(tensors).unwrap();
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for _ in 0..2 {
        lookup.encode(&mut encoder);
        turn.encode(&mut encoder);
    }
    readback::submit(ctx, encoder).unwrap();
    let read = |tensor: &Tensor| readback::read_blocking(ctx, tensor).unwrap();
    assert_eq!(read(&position), count(6));
    let values = read(&v).to_f32();
    let want = [values.clone(), values, vec![0.0; dim]].concat();
    assert_eq!(read(&v_cache).to_f32(), want);
    let keys = read(&k_cache).to_f32();
    assert!(keys[..dim] != keys[tokens * dim..][..dim], "the second run's tokens turn by other angles");
    assert_eq!(keys[6 * dim..], vec![0.0; dim]);
}

/// Rows behind the end of a cache are not written, wherever a run starts.
fn a_full_cache_stays_as_it_is() {
    let (tokens, rows, dim) = (4, 6, 4);
    for layout in [Layout::Bnhd, Layout::Bhnd] {
        for rope in [None, Some(rope::Rope::new(100.0, 2))] {
            let c = rope::Config {
                batch: 2,
                cache: Some(rows),
                position: true,
                layout,
                rope,
                ..rope::Config::new(tokens, 1, 3, dim)
            };
            let shaped = |len, stream| normal(layout.shape(2, 3, len, dim), stream);
            for position in [4, 8, 10, 11, 4_000_000_000] {
                let mut inputs = map(vec![
                    ("k", shaped(tokens, 1)),
                    ("v", shaped(tokens, 2)),
                    ("k_cache", shaped(rows, 3)),
                    ("v_cache", shaped(rows, 4)),
                    ("position", count(position)),
                ]);
                rope.into_iter().for_each(|_| inputs.insert("q", normal(layout.shape(2, 1, tokens, dim), 5)));
                for (backend, run) in backends() {
                    let out = run(&c, &inputs);
                    assert_matches(&format!("{backend}: from {position}: {c:?}"), &c, &inputs, &out);
                    let kept = out.get("v_cache") == inputs.get("v_cache");
                    assert_eq!(kept, position >= 10, "{backend}: from {position}");
                }
            }
        }
    }
}

/// Cosines and sines against f64, of the angles that f32 has, up to whole turns by the hundred thousand.
fn angles_far_along_a_sequence_are_right() {
    let dim = 128;
    for (theta, first) in [(10_000.0, 100_000), (10_000.0, 131_072), (1e6, 16_777_216), (1.0, 4_000_000_000)] {
        let rope = Some(rope::Rope::new(theta, dim));
        let c = rope::Config { rope, first, ..rope::Config::new(40, 1, 1, dim) };
        // The first half of q is 1 and the second 0: cosines, then sines.
        let row: Vec<f32> = (0..dim).map(|d| if d < dim / 2 { 1.0 } else { 0.0 }).collect();
        let q = HostTensor::f32([1, 40, 1, dim], row.repeat(40));
        let inputs = map(vec![("q", q.clone()), ("k", q)]);
        let mut want = Vec::new();
        for n in 0..40 {
            let frequency = |i: usize| 1.0 / f64::from(theta).powf(f64::from((2 * i) as f32 / dim as f32)) as f32;
            let angles: Vec<f64> = (0..dim / 2).map(|i| f64::from((first + n) as f32 * frequency(i))).collect();
            want.extend(angles.iter().map(|angle| angle.cos()));
            want.extend(angles.iter().map(|angle| angle.sin()));
        }
        for (backend, o) in written(&c, &inputs, "q_out") {
            let error = o.to_f64().iter().zip(&want).map(|(o, want)| (o - want).abs()).fold(0.0, f64::max);
            println!("{backend}: theta {theta}, from {first} on: {error:.2e}");
            assert!(error < 1.5e-7, "{backend}: theta {theta}, from {first} on: {error:.2e}");
        }
    }
}

/// Programs that no case of the command has.
fn parts_of_models_move_the_bytes_they_state() {
    let Some(ctx) = context() else { return };
    let turn = rope::Config { cache: Some(9), position: true, ..rope::Config::new(5, 4, 2, 24) };
    let embed = embedding::Config { positions: Some(9), carry: true, ..embedding::Config::new(5, 33, 24) };
    let half = embedding::Config { table_dtype: DType::F16, ..embed.clone() };
    let given = map(vec![("position", count(9)), ("index", whole([5], numbers(5, 33)))]);
    let list: [(&str, Box<dyn Operator>); 6] = [
        ("rope, cache", Box::new(turn.clone())),
        ("cache alone, odd", Box::new(rope::Config { rope: None, dim: 7, dim_v: 5, ..turn.clone() })),
        ("a cache that is too short", Box::new(rope::Config { position: false, first: 6, ..turn })),
        ("embedding, carried", Box::new(embed)),
        ("embedding, f16", Box::new(half.clone())),
        ("embedding, f16, odd", Box::new(embedding::Config { dim: 7, ..half })),
    ];
    for (what, part) in list {
        let named: TensorMap = (given.iter())
            .filter(|(name, _)| part.slots().iter().any(|slot| slot.name == *name))
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect();
        let (stated, [read, wrote]) = moved_by(ctx, part.program(ctx.caps()).unwrap(), &named);
        assert_eq!(read, stated.bytes_read, "{what}: bytes read");
        assert_eq!(wrote, stated.bytes_written, "{what}: bytes written");
        let essential = part.cost();
        assert!(stated.bytes_read >= essential.bytes_read && stated.flops >= essential.flops, "{what}");
        assert_eq!(stated.bytes_written, essential.bytes_written, "{what}");
    }
}

/// Chosen rows of the definition are those of all.
fn some_rows_of_the_definition_are_those_of_all() {
    let c = rope::Config { batch: 2, ..rope::Config::new(6, 2, 1, 4) };
    let inputs = map(vec![("q", normal([2, 6, 2, 4], 1)), ("k", normal([2, 6, 1, 4], 2))]);
    let [all, some] = [Rows::All, Rows::At(&[1, 4])].map(|rows| c.reference(&inputs, Precision::F64, rows));
    let row = |n: usize, batch: usize| &all[0].1[(batch * 6 + n) * 8..][..8];
    assert_eq!(some[0].1, [row(1, 0), row(4, 0), row(1, 1), row(4, 1)].concat());
}

fn refused_before_anything_runs() {
    let caps = Caps::portable();
    let rope = rope::Config::new(3, 2, 1, 8);
    let turn = |theta, dims| rope::Config { rope: Some(rope::Rope::new(theta, dims)), ..rope.clone() };
    let embed = embedding::Config::new(3, 9, 4);
    let norm = gated_norm::Config::new(1, 1);
    let cases: [(Box<dyn Operator>, &str); 12] = [
        (
            Box::new(turn(10.0, 7)),
            "rope: `rope_dims`: expected an even number from 2 to 8, of the D = 8 columns, found 7",
        ),
        (
            Box::new(turn(10.0, 10)),
            "rope: `rope_dims`: expected an even number from 2 to 8, of the D = 8 columns, found 10",
        ),
        (Box::new(turn(0.5, 8)), "rope: `theta`: expected a finite number of 1 or more, found 0.5"),
        (Box::new(turn(f32::NAN, 8)), "rope: `theta`: expected a finite number of 1 or more, found NaN"),
        (
            Box::new(rope::Config { rope: None, ..rope.clone() }),
            "rope: `rope` or a cache is needed, and neither is set",
        ),
        (Box::new(rope::Config { cache: Some(0), ..rope.clone() }), "rope: `cache`: expected 1 or more, found 0"),
        (
            Box::new(rope::Config { first: usize::MAX, ..rope.clone() }),
            "rope: `position`: expected a number up to 4294967292, found 18446744073709551615",
        ),
        (Box::new(embedding::Config { vocab: 0, ..embed.clone() }), "embedding: `V`: expected 1 or more, found 0"),
        (
            Box::new(embedding::Config { positions: Some(2), ..embed.clone() }),
            "embedding: tensor `positions`: expected 3 rows or more, one per token, found 2",
        ),
        (
            Box::new(embedding::Config { table_dtype: DType::I32, ..embed.clone() }),
            "embedding: tensor `table`: expected f32 or f16, found i32",
        ),
        (
            Box::new(embedding::Config { scale: f32::INFINITY, ..embed }),
            "embedding: `scale`: expected a finite number, found inf",
        ),
        (
            Box::new(gated_norm::Config { eps: f32::NAN, ..norm }),
            "norm: `eps`: expected a finite number of 0 or more, found NaN",
        ),
    ];
    for (part, sentence) in cases {
        assert_eq!(part.program(&caps).unwrap_err().to_string(), sentence);
        assert_eq!(part.cpu(&TensorMap::new()).unwrap_err().to_string(), sentence);
    }
    let early = rope::Config { cache: Some(9), position: true, ..rope };
    let [k, v] = [1, 2].map(|stream| normal([1, 3, 1, 8], stream));
    let inputs = map(vec![("q", normal([1, 3, 2, 8], 3)), ("k", k), ("v", v), ("position", count(2))]);
    let sentence = "rope: tensor `position`: expected 3 or more, since the tokens of the run count, found 2";
    assert_eq!(early.cpu(&inputs).unwrap_err().to_string(), sentence);
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(norms_of_every_kind_are_their_definition),
        test(a_variance_is_right_far_from_zero),
        test(gates_far_away_are_finite),
        test(columns_of_a_projection_are_taken_in_place),
        test(embeddings_of_either_storage_are_their_definition),
        test(a_table_of_any_size_is_read_in_parts),
        test(what_names_no_row_takes_the_last_one),
        test(a_sequence_in_pieces_is_the_whole),
        test(a_pass_counts_its_tokens_first),
        test(a_full_cache_stays_as_it_is),
        test(angles_far_along_a_sequence_are_right),
        test(parts_of_models_move_the_bytes_they_state),
        test(some_rows_of_the_definition_are_those_of_all),
        test(refused_before_anything_runs),
    ]
}
