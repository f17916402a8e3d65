//! Tensors with strides: the bits are those of contiguous tensors.

use subquad::gpu::{AdapterRequest, Context, Workspace, readback};
use subquad::operator::mode::{Direction, Mode};
use subquad::operator::qkv::Qkv;
use subquad::operator::{Operator, compile};
use subquad::ops::linear::{FeatureMap, Gate, Rule};
use subquad::ops::{conv1d, linear, linformer, mta, slay, softmax, ssd, yat};
use subquad::tensor::{DType, HostTensor, Layout, Tensor};

use crate::{buffer, contiguous, open, quick, run, values};

/// Puts the rows of a contiguous tensor of four axes where strides and an offset, in elements, say.
fn place(from: &HostTensor, to: &mut [f32], first: usize, strides: [usize; 4]) {
    let d = from.shape().dims().to_vec();
    let numbers = from.to_f32();
    for (row, chunk) in numbers.chunks_exact(d[3]).enumerate() {
        let at = first + row / d[2] / d[1] * strides[0] + row / d[2] % d[1] * strides[1] + row % d[2] * strides[2];
        to[at..at + d[3]].copy_from_slice(chunk);
    }
}

/// q, k and v as parts of one projection `[B, N, 3, H, D]`, and o in the other order of axes, give the bits of contiguous
/// tensors.
fn fused_is_contiguous(ctx: &Context, name: &str, operator: &dyn Operator, layout: Layout) {
    let plan = compile(ctx, operator).unwrap();
    let slots = contiguous(ctx, &plan);
    let named: Vec<_> = slots.iter().map(|(name, tensor)| (*name, tensor)).collect();
    run(ctx, &plan, &named);
    let tensor = |name: &str| &slots.iter().find(|(slot, _)| *slot == name).unwrap().1;
    let read = |name: &str| readback::read_blocking(ctx, tensor(name)).unwrap();
    let want = read("o");

    let (q, dtype) = (tensor("q"), tensor("q").dtype());
    let [b, x, y, d] = q.shape().dims().try_into().unwrap();
    let (h, n) = if layout == Layout::Bhnd { (x, y) } else { (y, x) };
    let axes = |[batch, head, token]: [usize; 3]| match layout {
        Layout::Bhnd => [batch, head, token, 1],
        Layout::Bnhd => [batch, token, head, 1],
    };
    let strides = axes([3 * n * h * d, d, 3 * h * d]);
    let mut projection = vec![0.0; b * n * 3 * h * d];
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        place(&read(name), &mut projection, i * h * d, strides);
    }
    let projection = HostTensor::f32([b, n, 3, h, d], projection).cast(dtype);
    let projection = buffer(ctx, &projection);
    let parts: Vec<_> = (0..3)
        .map(|i| {
            let offset = (i * h * d * dtype.size()) as u64;
            Tensor::strided(&projection, offset, q.shape().clone(), strides, dtype).unwrap()
        })
        .collect();
    // o with the other order of axes, behind three elements of somebody else.
    let other = match layout {
        Layout::Bhnd => [n * h * d, d, h * d, 1],
        Layout::Bnhd => [n * h * d, d, n * d, 1],
    };
    let home = buffer(ctx, &HostTensor::zeros([b * n * h * d + 4], dtype));
    let o = Tensor::strided(&home, 3 * dtype.size() as u64, want.shape().clone(), other, dtype).unwrap();
    let mut named = named;
    for (slot, tensor) in &mut named {
        match *slot {
            "q" => *tensor = &parts[0],
            "k" => *tensor = &parts[1],
            "v" => *tensor = &parts[2],
            "o" => *tensor = &o,
            _ => {}
        }
    }
    run(ctx, &plan, &named);
    let got = readback::read_blocking(ctx, &o).unwrap();
    assert_eq!(got.shape(), want.shape());
    assert!(want.to_f32().iter().any(|x| *x != 0.0), "{name}: nothing was computed");
    assert!(got.bytes() == want.bytes(), "{name}: other bits");
    let all = Tensor::view(&home, 0..home.size(), [home.size() as usize / dtype.size()], dtype).unwrap();
    let all = readback::read_blocking(ctx, &all).unwrap().to_f32();
    assert!(all[..3].iter().all(|x| *x == 0.0), "{name}: wrote in front of o");
    assert!(all[3 + b * n * h * d..].iter().all(|x| *x == 0.0), "{name}: wrote behind o");
}

#[test]
fn attention_takes_a_fused_projection() {
    let Some(ctx) = open() else { return };
    let short = Qkv::new().batch(2).heads(2).len(70).dim(24);
    let few = Qkv::new().batch(2).heads(3).len(3).dim(20);
    let pooled = linformer::Projection::Pool(linformer::Pool::Mean);
    let operators: [(&str, Box<dyn Operator>); 6] = [
        ("softmax", Box::new(softmax::Config::new(short))),
        ("softmax, bnhd", Box::new(softmax::Config::new(short.layout(Layout::Bnhd)))),
        ("softmax, keys split", Box::new(softmax::Config::new(few))),
        ("yat, keys split", Box::new(yat::Config { norm: yat::Norm::Softmax, ..yat::Config::new(few) })),
        ("linformer, pooled", Box::new(linformer::Config { projection: pooled, ..linformer::Config::new(short, 20) })),
        ("linformer", Box::new(linformer::Config::new(short, 20))),
    ];
    for (name, operator) in &operators {
        let layout = if name.ends_with("bnhd") { Layout::Bnhd } else { Layout::Bhnd };
        fused_is_contiguous(&ctx, name, operator.as_ref(), layout);
    }
    if !quick() {
        fused_is_contiguous(&ctx, "yat", &yat::Config::new(short), Layout::Bhnd);
    }
    if ctx.caps().f16 {
        fused_is_contiguous(&ctx, "f16", &softmax::Config::new(short.dtype(DType::F16)), Layout::Bhnd);
    }
}

#[test]
fn recurrences_take_a_fused_projection() {
    let Some(ctx) = open() else { return };
    let short = Qkv::new().batch(2).heads(2).len(70).dim(24);
    let cut = |config: linear::Config| linear::Config { mode: config.mode.segment(32), ..config };
    let of = |rule, map| cut(linear::Config::new(short).rule(rule).map(map));
    let mut operators: Vec<(&str, Box<dyn Operator>)> = vec![
        ("linear", Box::new(cut(linear::Config::new(short)))),
        ("linear, bnhd", Box::new(cut(linear::Config::new(short.layout(Layout::Bnhd))))),
        ("backward", Box::new(both_ways(short, Direction::Backward))),
        ("in both directions, bnhd", Box::new(both_ways(short.layout(Layout::Bnhd), Direction::Both))),
    ];
    // Each of these compiles for seconds on a software adapter.
    if !quick() {
        operators.extend([
            ("linear, one pass", Box::new(linear::Config::new(short)) as Box<dyn Operator>),
            ("gated", Box::new(cut(linear::Config::new(short).rule(Rule::Gated(Gate::Channel))))),
            ("performer", Box::new(of(Rule::Linear, FeatureMap::Performer))),
            ("cosformer", Box::new(of(Rule::Linear, FeatureMap::Cosformer))),
            ("delta", Box::new(linear::Config::new(short).rule(Rule::GatedDelta(Gate::Head)))),
            ("slay", Box::new(slay::Config::new(short))),
        ]);
    }
    for (name, operator) in &operators {
        let layout = if name.ends_with("bnhd") { Layout::Bnhd } else { Layout::Bhnd };
        fused_is_contiguous(&ctx, name, operator.as_ref(), layout);
    }
    if ctx.caps().f16 {
        fused_is_contiguous(&ctx, "f16", &linear::Config::new(short.dtype(DType::F16)), Layout::Bhnd);
        let both = both_ways(short.dtype(DType::F16), Direction::Both);
        fused_is_contiguous(&ctx, "f16 in both directions", &both, Layout::Bhnd);
    }
}

/// Runs against the tokens, of vectors whose lengths a kernel of its own computes.
fn both_ways(qkv: Qkv, direction: Direction) -> linear::Config {
    linear::Config { l2norm: true, mode: Mode::new().segment(32).direction(direction), ..linear::Config::new(qkv) }
}

/// One token, with a state.
#[test]
fn decoding_takes_a_fused_projection() {
    let Some(ctx) = open() else { return };
    let one = Qkv::new().batch(2).heads(3).len(1).dim(20);
    let mode = Mode::new().decode();
    for (name, config) in [
        ("linear", linear::Config::new(one)),
        ("performer", linear::Config::new(one).map(FeatureMap::Performer)),
        ("delta", linear::Config::new(one).rule(Rule::Delta)),
    ] {
        fused_once_decoded(&ctx, name, &linear::Config { mode, ..config });
    }
    fused_once_decoded(&ctx, "slay", &slay::Config { mode, ..slay::Config::new(one) });
}

/// The state advances with each run, so that both ways start from one of their own.
fn fused_once_decoded(ctx: &Context, name: &str, operator: &dyn Operator) {
    let plan = compile(ctx, operator).unwrap();
    let state = |slots: &mut Vec<(&'static str, Tensor)>| {
        let fresh = contiguous(ctx, &plan).into_iter().find(|(name, _)| *name == "state").unwrap();
        *slots.iter_mut().find(|(name, _)| *name == "state").unwrap() = fresh;
    };
    let mut slots = contiguous(ctx, &plan);
    let named: Vec<_> = slots.iter().map(|(name, tensor)| (*name, tensor)).collect();
    run(ctx, &plan, &named);
    let at = |slots: &[(&str, Tensor)], name: &str| slots.iter().find(|(slot, _)| *slot == name).unwrap().1.clone();
    let read = |tensor: &Tensor| readback::read_blocking(ctx, tensor).unwrap();
    let want = [read(&at(&slots, "o")), read(&at(&slots, "state"))];
    state(&mut slots);
    let [b, h, _, d] = at(&slots, "q").shape().dims().try_into().unwrap();
    let strides = [3 * h * d, d, 0, 1];
    let mut projection = vec![0.0; b * 3 * h * d];
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        place(&read(&at(&slots, name)), &mut projection, i * h * d, strides);
    }
    let projection = buffer(ctx, &HostTensor::f32([b, 3, h, d], projection));
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        let view = Tensor::strided(&projection, (i * h * d * 4) as u64, [b, h, 1, d], strides, DType::F32).unwrap();
        slots.iter_mut().find(|(slot, _)| *slot == name).unwrap().1 = view;
    }
    let named: Vec<_> = slots.iter().map(|(name, tensor)| (*name, tensor)).collect();
    run(ctx, &plan, &named);
    assert!(read(&at(&slots, "o")).bytes() == want[0].bytes(), "{name}: other bits");
    assert!(read(&at(&slots, "state")).bytes() == want[1].bytes(), "{name}: another state");
}

/// What a mamba2 block's convolution leaves, `[B, N, H P + 2 G S]`, bound as x, b and c.
#[test]
fn ssd_takes_x_b_and_c_from_one_buffer() {
    let Some(ctx) = open() else { return };
    let config = ssd::Config { batch: 2, groups: 2, ..ssd::Config::new(70, 4, 20, 12) };
    let plan = compile(&ctx, &config).unwrap();
    let mut slots = contiguous(&ctx, &plan);
    let named: Vec<_> = slots.iter().map(|(name, tensor)| (*name, tensor)).collect();
    run(&ctx, &plan, &named);
    let at = |slots: &[(&str, Tensor)], name: &str| slots.iter().find(|(slot, _)| *slot == name).unwrap().1.clone();
    let want = readback::read_blocking(&ctx, &at(&slots, "y")).unwrap();
    let (inner, states) = (4 * 20, 2 * 12);
    let row = inner + 2 * states;
    let mut all = vec![0.0; 2 * 70 * row];
    let parts = [("x", 0, 20), ("b", inner, 12), ("c", inner + states, 12)];
    for (name, first, each) in parts {
        let tensor = readback::read_blocking(&ctx, &at(&slots, name)).unwrap();
        place(&tensor, &mut all, first, [70 * row, row, each, 1]);
    }
    let all = buffer(&ctx, &HostTensor::f32([2, 70, row], all));
    for (name, first, each) in parts {
        let shape = at(&slots, name).shape().clone();
        let strides = [70 * row, row, each, 1];
        let view = Tensor::strided(&all, first as u64 * 4, shape, strides, DType::F32).unwrap();
        slots.iter_mut().find(|(slot, _)| *slot == name).unwrap().1 = view;
    }
    let named: Vec<_> = slots.iter().map(|(name, tensor)| (*name, tensor)).collect();
    run(&ctx, &plan, &named);
    let got = readback::read_blocking(&ctx, &at(&slots, "y")).unwrap();
    assert!(got.bytes() == want.bytes() && want.to_f32().iter().any(|x| *x != 0.0));
}

/// Keys that are windows over one row of numbers: no stride is a multiple of four elements.
#[test]
fn keys_may_be_windows_that_move_by_one_element() {
    let Some(ctx) = open() else { return };
    let config = linear::Config::new(Qkv::new().len(20).dim(8));
    let plan = compile(&ctx, &config).unwrap();
    let mut slots = contiguous(&ctx, &plan);
    let row: Vec<f32> = (0..28).map(|i| (i as f32 * 0.7).sin()).collect();
    let windows = row.windows(8).take(20).flatten().copied().collect();
    let shape = [1, 1, 20, 8];
    let o = |slots: &[(&str, Tensor)]| {
        let named: Vec<_> = slots.iter().map(|(name, tensor)| (*name, tensor)).collect();
        run(&ctx, &plan, &named);
        readback::read_blocking(&ctx, &slots.iter().find(|(slot, _)| *slot == "o").unwrap().1).unwrap()
    };
    let k = slots.iter().position(|(slot, _)| *slot == "k").unwrap();
    let copied = buffer(&ctx, &HostTensor::f32(shape, windows));
    slots[k].1 = Tensor::view(&copied, 0..640, shape, DType::F32).unwrap();
    let want = o(&slots);
    let whole = buffer(&ctx, &HostTensor::f32([28], row));
    slots[k].1 = Tensor::strided(&whole, 0, shape, [28, 28, 1, 1], DType::F32).unwrap();
    assert!(o(&slots).bytes() == want.bytes() && want.to_f32().iter().any(|x| *x != 0.0));
}

/// The filled part of a key/value cache `[B, G, room, D]`, whose rest is not a number, and one key head for all heads.
#[test]
fn a_cache_with_spare_room_binds_without_a_copy() {
    let Some(ctx) = open() else { return };
    let (b, g, room, d) = (2, 2, 300, 16);
    for keys in [1, 129, 300] {
        let qkv = Qkv::new().batch(b).heads(4).len(1).dim(d).kv_heads(g).keys(keys);
        let plan = compile(&ctx, &softmax::Config::new(qkv)).unwrap();
        let slots = contiguous(&ctx, &plan);
        let named: Vec<_> = slots.iter().map(|(name, tensor)| (*name, tensor)).collect();
        run(&ctx, &plan, &named);
        let want = readback::read_blocking(&ctx, &slots[3].1).unwrap();
        let strides = [g * room * d, room * d, d, 1];
        let caches = [1, 2].map(|i: usize| {
            let mut cache = vec![f32::NAN; b * g * room * d];
            place(&readback::read_blocking(&ctx, &slots[i].1).unwrap(), &mut cache, 0, strides);
            let cache = buffer(&ctx, &HostTensor::f32([b, g, room, d], cache));
            Tensor::strided(&cache, 0, [b, g, keys, d], strides, DType::F32).unwrap()
        });
        assert_eq!(caches[0].strides().is_none(), keys == room, "a full cache is contiguous");
        run(&ctx, &plan, &[("q", &slots[0].1), ("k", &caches[0]), ("v", &caches[1]), ("o", &slots[3].1)]);
        let got = readback::read_blocking(&ctx, &slots[3].1).unwrap();
        assert!(got.bytes() == want.bytes() && want.to_f32().iter().all(|x| x.is_finite()), "{keys} keys");
    }
}

/// A stride of 0 repeats a key head, as an expanded tensor does.
#[test]
fn inputs_may_overlap_and_outputs_may_not() {
    let Some(ctx) = open() else { return };
    let shape = [1, 4, 40, 8];
    let plan = compile(&ctx, &softmax::Config::new(Qkv::new().heads(4).len(40).dim(8))).unwrap();
    let one = HostTensor::f32([1, 1, 40, 8], values(320, 3));
    let shared = buffer(&ctx, &one);
    let repeated = Tensor::strided(&shared, 0, shape, [320, 0, 8, 1], DType::F32).unwrap();
    let four = HostTensor::f32(shape, one.to_f32().repeat(4));
    let [q, k] =
        [values(1280, 1), four.to_f32()].map(|x| readback::upload(&ctx, "t", &HostTensor::f32(shape, x)).unwrap());
    let [o, p] = [0, 1].map(|_| readback::empty(&ctx, "o", shape, DType::F32).unwrap());
    run(&ctx, &plan, &[("q", &q), ("k", &repeated), ("v", &repeated), ("o", &o)]);
    run(&ctx, &plan, &[("q", &q), ("k", &k), ("v", &k), ("o", &p)]);
    let [got, want] = [&o, &p].map(|tensor| readback::read_blocking(&ctx, tensor).unwrap());
    assert_eq!(got.bytes(), want.bytes());

    let home = buffer(&ctx, &HostTensor::zeros(shape, DType::F32));
    for strides in [[0, 0, 8, 1], [0, 4, 32, 1], [0, 8, 8, 1]] {
        let o = Tensor::strided(&home, 0, shape, strides, DType::F32).unwrap();
        let error = plan.bind(&[("q", &q), ("k", &k), ("v", &k), ("o", &o)], &Workspace::new()).unwrap_err();
        let (text, strides) = (error.to_string(), format!("strides {strides:?}"));
        assert!(
            text.starts_with("softmax: tensor `o`: expected strides that keep the elements of an output apart"),
            "{text}"
        );
        assert!(text.contains(&strides), "{text}");
    }
}

#[test]
fn strides_are_refused_where_a_kernel_takes_none() {
    let Some(ctx) = open() else { return };
    let mta = mta::Config::new(Qkv::new().heads(2).len(40).dim(8));
    let conv = conv1d::Config::new(subquad::operator::channels::Channels::new(2, 3, 40), 4);
    let gated = linear::Config::new(Qkv::new().heads(2).len(40).dim(8)).rule(Rule::Gated(Gate::Channel));
    let operators: [(&str, Box<dyn Operator>, &str); 3] =
        [("mta", Box::new(mta), "k"), ("conv1d", Box::new(conv), "x"), ("linear", Box::new(gated), "g")];
    for (op, operator, name) in operators {
        let plan = compile(&ctx, operator.as_ref()).unwrap();
        let slots = contiguous(&ctx, &plan);
        let shape = plan.slots().iter().find(|slot| slot.name == name).unwrap().shape();
        let room = buffer(&ctx, &HostTensor::zeros([4 * shape.count()], DType::F32));
        let mut strides: Vec<usize> =
            (0..shape.rank()).map(|axis| 2 * shape.dims()[axis + 1..].iter().product::<usize>()).collect();
        *strides.last_mut().unwrap() = 1;
        let strided = Tensor::strided(&room, 0, shape, strides, DType::F32).unwrap();
        let named: Vec<_> =
            slots.iter().map(|(slot, tensor)| (*slot, if *slot == name { &strided } else { tensor })).collect();
        let text = plan.bind(&named, &Workspace::new()).unwrap_err().to_string();
        assert!(text.starts_with(&format!("{op}: tensor `{name}`: expected a contiguous tensor")), "{text}");
    }
}

/// What one binding cannot hold: a tensor that is bound in parts, and elements too far from each other.
#[test]
fn strides_are_held_against_the_binding_limit() {
    let Some(ctx) = open() else { return };
    let candidates = subquad::gpu::candidates(&AdapterRequest { software: true, ..AdapterRequest::default() });
    let same = candidates.iter().find(|c| c.info == *ctx.info()).unwrap();
    let small = same.open_with(false, |limits| limits.max_storage_buffer_binding_size = 1 << 16);
    let small = pollster::block_on(small).unwrap();
    let bound = |qkv: Qkv, strides: [usize; 4]| {
        let plan = compile(&small, &softmax::Config::new(qkv)).unwrap();
        let slots = contiguous(&small, &plan);
        let room = buffer(&small, &HostTensor::zeros([60_000], DType::F32));
        let q = Tensor::strided(&room, 0, slots[0].1.shape().clone(), strides, DType::F32).unwrap();
        let mut workspace = Workspace::new();
        workspace.reserve(&small, plan.workspace()).unwrap();
        let bound = plan.bind(&[("q", &q), ("k", &slots[1].1), ("v", &slots[2].1), ("o", &slots[3].1)], &workspace);
        bound.map(drop).map_err(|error| error.to_string())
    };
    let cut = bound(Qkv::new().heads(4).len(300).dim(16), [0, 16, 64, 1]).unwrap_err();
    assert!(cut.contains("tensor `q`: expected a contiguous tensor, since it is bound in parts at this size"), "{cut}");
    // 20 tokens of 8 behind the stride of a head: just within the limit, and an element beyond.
    let qkv = Qkv::new().heads(2).len(20).dim(8);
    assert_eq!(bound(qkv, [0, (1 << 14) - 160, 8, 1]), Ok(()));
    let far = bound(qkv, [0, (1 << 14) - 159, 8, 1]).unwrap_err();
    let expected =
        "softmax: tensor `q` (bytes from its first element to its last) needs 65540, the limit of this device is 65536";
    assert_eq!(far, expected);
}

#[test]
fn what_strides_cannot_be_is_said() {
    let Some(ctx) = open() else { return };
    let room = buffer(&ctx, &HostTensor::zeros([1000], DType::F32));
    let strided = |offset, shape: [usize; 4], strides: &[usize]| {
        Tensor::strided(&room, offset, shape, strides, DType::F32).map(|tensor| tensor.strides().map(<[usize]>::to_vec))
    };
    assert_eq!(strided(0, [1, 2, 10, 5], &[999, 50, 5, 1]).unwrap(), None, "contiguous but for an axis of length 1");
    assert_eq!(strided(4, [1, 2, 10, 5], &[0, 50, 5, 1]).unwrap(), Some(vec![0, 50, 5, 1]));
    assert_eq!(strided(0, [1, 1, 1, 1], &[7, 7, 7, 7]).unwrap(), None);
    let refused = |offset, shape, strides: &[usize]| strided(offset, shape, strides).unwrap_err().to_string();
    let last = refused(0, [1, 2, 10, 5], &[100, 1, 2, 20]);
    assert_eq!(last, "strided: tensor `buffer`: expected a last stride of 1, found 20");
    let rank = refused(0, [1, 2, 10, 5], &[50, 5, 1]);
    assert_eq!(rank, "strided: tensor `buffer`: expected a stride for each axis of [1, 2, 10, 5], found 3 strides");
    let size = room.size();
    let end = refused(0, [1, 2, 10, 5], &[0, 960, 5, 1]);
    assert_eq!(end, format!("strided: tensor `buffer`: expected a buffer of at least 4040 bytes, found {size} bytes"));
    assert!(refused(size, [1, 1, 1, 1], &[0, 0, 0, 1]).contains("a buffer of at least"));
    assert!(refused(2, [1, 2, 10, 5], &[0, 50, 5, 1]).contains("an offset that is a multiple of 4 bytes"));
    assert!(refused(0, [1, 2, 0, 5], &[0, 50, 5, 1]).contains("axis 2 of length 0"));
    let far = refused(0, [1, 2, 2, 5], &[0, usize::MAX, usize::MAX, 1]);
    assert!(far.contains("strides whose bytes fit u64"), "{far}");
    let whole = Tensor::strided(&room, 0, [2, 3, 4, 5], [60, 20, 5, 1], DType::F32).unwrap();
    assert_eq!((whole.strides(), whole.bytes()), (None, 480));
}
