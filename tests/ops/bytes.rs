//! Counted loads and stores: what a program states to move is what its kernels move.
//!
//! `bytes::OP::CASE` counts the cases that cover all kernels ([`covering`]): quick ones in f32, since counters count words.
//! Kernels that count are compiled for that alone.

use std::cmp::Ordering;

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::gpu::program::Operand;
use subquad::gpu::shader;
use subquad::gpu::{Context, Cost, Fragment, Plan, Program, Schedule, Workspace, pack, readback};
use subquad::operator::Operator;
use subquad::operator::channels::Channels;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::operator::steps::Steps;
use subquad::ops::linear::{self, Config, FeatureMap};
use subquad::ops::{all, conv1d, mamba, ramnet, slay, ssd};
use subquad::tensor::{Access, DType, HostTensor, Slot, Tensor, TensorMap};

use crate::cover::{Programs, covering, runs_everything, usual};
use crate::support::{context, prepare, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![
        test(plans_move_the_bytes_they_state),
        test(a_memory_moves_what_is_stated_where_no_slot_is_shared_and_less_where_all_are),
    ];
    // Kernels that count are compiled for that alone, which takes minutes on a software adapter.
    for op in all().filter(|_| runs_everything()) {
        let of = |case: Case| {
            Trial::ignorable_test(format!("bytes::{}::{case}", op.name), move || a_case_moves_what_it_states(op, &case))
        };
        let quick = |case: &Case| case.quick && case.dtype == DType::F32;
        trials.extend(covering(op, &Programs { caps: &usual(), entries: None }, quick).into_iter().map(of));
    }
    trials
}

/// How what is moved compares with what is stated, where that depends on the values: no statement can know them.
fn expected(op: &Op, case: &Case) -> Ordering {
    let decode = case.flags.switch("decode") == Some(true);
    match op.name {
        // How many segments packed sequences have depends on their borders.
        _ if case.with.contains(&"cu_seqlens") => Ordering::Less,
        // Keys behind a length are not read.
        _ if case.with.contains(&"lengths") => Ordering::Less,
        // A binary search ends sooner or later.
        "sort" => Ordering::Less,
        // Tokens of a memory that share a slot load it once.
        "ramnet" if !decode => Ordering::Less,
        // Keys close to the query are loaded again, for the difference; in so few dimensions many are.
        "yat" if case.axis(op, "D").is_some_and(|d| d <= 3) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

fn a_case_moves_what_it_states(op: &Op, case: &Case) -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    let (operator, inputs) = prepare(op, case);
    assert_moves_what_is_stated(ctx, op, case, operator.program(ctx.caps()).unwrap(), &inputs);
    Ok(Completion::Completed)
}

/// A program of a case moves the bytes that it states.
pub(crate) fn assert_moves_what_is_stated(ctx: &Context, op: &Op, case: &Case, program: Program, inputs: &TensorMap) {
    let (stated, [read, written]) = moved_by(ctx, program, inputs);
    let expected = expected(op, case);
    for (what, counted, stated) in [("read", read, stated.bytes_read), ("written", written, stated.bytes_written)] {
        let found = counted.total_cmp(&stated);
        assert!(found == expected || found.is_eq(), "bytes {what}: {counted}, stated {stated}");
    }
}

pub(crate) fn tensors(ctx: &Context, plan: &Plan) -> Vec<Tensor> {
    tensors_of(ctx, plan, &TensorMap::new())
}

/// Uploads the tensors given, or random ones. Tensors that are written or updated start at zero.
fn tensors_of(ctx: &Context, plan: &Plan, given: &TensorMap) -> Vec<Tensor> {
    plan.slots()
        .iter()
        .enumerate()
        .map(|(i, slot)| {
            let shape = slot.shape();
            match slot.access {
                Access::Read if given.get(slot.name).is_some() => {
                    readback::upload(ctx, slot.name, &pack::pack(slot, given)).unwrap()
                }
                Access::Read => {
                    let values = random::normal(5, i as u64, shape.count());
                    readback::upload(ctx, slot.name, &HostTensor::f32(shape, values).cast(slot.dtype)).unwrap()
                }
                _ => readback::empty(ctx, slot.name, [slot.checked_count().unwrap() as usize], slot.dtype)
                    .map(|t| if slot.parts.len() == 1 { t_reshape(&t, slot) } else { t })
                    .unwrap(),
            }
        })
        .collect()
}

fn t_reshape(t: &Tensor, slot: &Slot) -> Tensor {
    Tensor::view(t.buffer(), 0..t.bytes(), slot.parts[0].shape.clone(), slot.dtype).unwrap()
}

/// The program with every kernel counting its loads and stores into one more tensor.
fn counting(program: Program) -> Program {
    let on = Fragment { path: "lib/count_on.wgsl", text: include_str!("../../shaders/lib/count_on.wgsl") };
    program.edited(|slots, _, steps| {
        let counters = Operand::Slot(slots.len());
        slots.push(Slot::plain("counters", Access::Update, DType::F32, [2]));
        for step in steps {
            for fragment in &mut step.spec.fragments {
                if fragment.path == "lib/count_off.wgsl" {
                    *fragment = on;
                }
            }
            let found = shader::bindings(step.kernel, &step.spec).iter().position(|binding| binding.name == "counters");
            let at = found.unwrap_or_else(|| panic!("{} cannot count", step.kernel.name));
            step.operands.insert(at, counters);
            step.strided.clear();
        }
    })
}

/// Plans that no quick case has, and those of the parts.
fn plans_move_the_bytes_they_state() {
    let Some(ctx) = context() else { return };
    let base = Config::new(Qkv::new().heads(4).len(50).dim(12).dim_v(20));
    let [head, channel] = [linear::Gate::Head, linear::Gate::Channel].map(linear::Rule::Gated);
    let map = |map| Config { features: 20, max_len: Some(60), normalize: Some(true), ..base.clone().map(map) };
    let wide = Config { qkv: base.qkv.dim_v(70).kv_heads(2), ..map(FeatureMap::Performer) };
    let one = base.qkv.queries(1).keys(1).kv_heads(2);
    let mut list: Vec<(&str, Box<dyn Operator>)> = vec![
        ("gated, one pass", Box::new(Config { mode: Mode::new().carry(), ..base.clone().rule(head) })),
        (
            "gated by channels, wide, normalised",
            Box::new(Config {
                qkv: base.qkv.dim_v(70),
                normalize: Some(true),
                mode: Mode::new().segment(25),
                ..base.clone().rule(channel)
            }),
        ),
        (
            "performer-relu, two passes",
            Box::new(Config { mode: Mode::new().segment(16), ..map(FeatureMap::PerformerRelu) }),
        ),
        ("performer", Box::new(map(FeatureMap::Performer))),
        ("performer, state", Box::new(Config { mode: Mode::new().carry(), ..map(FeatureMap::Performer) })),
        ("performer, two passes, wide", Box::new(Config { mode: wide.mode.segment(25), ..wide })),
        (
            "performer, gated, decode",
            Box::new(Config { qkv: one, rule: head, mode: Mode::new().carry().decode(), ..map(FeatureMap::Performer) }),
        ),
        ("cosformer", Box::new(map(FeatureMap::Cosformer))),
        (
            "cosformer, gated by channels, state",
            Box::new(Config { rule: channel, mode: Mode::new().segment(16).carry(), ..map(FeatureMap::Cosformer) }),
        ),
    ];
    let few = slay::Config { features: 5, anchors: 6, ..slay::Config::new(base.qkv.kv_heads(2)) };
    let exact = slay::Config { poly: slay::Poly::Exact, features: 64, ..few.clone() };
    let wide = slay::Config { poly: slay::Poly::TensorSketch, anchors: 70, ..few.clone() };
    list.extend([
        ("slay, rows split", Box::new(slay::Config { mode: exact.mode.segment(25), ..exact }) as Box<dyn Operator>),
        ("slay, weights not kept", Box::new(slay::Config { anchors: 200, ..few.clone() })),
        ("slay, two rows an entry", Box::new(slay::Config { poly: slay::Poly::Maclaurin, ..few.clone() })),
        ("slay, all rows an entry", Box::new(wide.clone())),
        ("slay, no rows", Box::new(slay::Config { poly: slay::Poly::Hadamard, ..few })),
        (
            "slay, decode, all rows an entry",
            Box::new(slay::Config { qkv: one, mode: wide.mode.carry().decode(), ..wide }),
        ),
    ]);
    let plain = ssd::Config { batch: 2, groups: 2, ..ssd::Config::new(50, 4, 10, 20) };
    let every = ssd::Config { d: true, z: true, dt_bias: true, mode: plain.mode.carry(), ..plain.clone() };
    list.extend([
        ("ssd, one pass, everything", Box::new(every.clone()) as Box<dyn Operator>),
        (
            "ssd, two passes",
            Box::new(ssd::Config { a_log: true, steps: Steps::plain(), mode: plain.mode.segment(16), ..plain }),
        ),
        (
            "ssd, two passes, wide, everything",
            Box::new(ssd::Config { dim: 70, mode: every.mode.segment(16), ..every.clone() }),
        ),
        ("ssd, decode", Box::new(ssd::Config { length: 1, mode: every.mode.decode(), ..every })),
    ]);
    let one = ramnet::Config { mode: Mode::new().carry().decode(), ..ramnet::Config::new(1, 2, 1, 5, 70) };
    list.extend([
        ("ramnet, decode", Box::new(one.clone()) as Box<dyn Operator>),
        (
            "ramnet, decode, CAPE, logits not kept",
            Box::new(ramnet::Config {
                qkv: one.qkv.dim_k(1500),
                choices: 1500,
                rule: ramnet::Rule::Pdma,
                cape: ramnet::Cape::Heads(vec![1]),
                ..one
            }),
        ),
    ]);
    let conv =
        conv1d::Config { bias: true, mode: Mode::new().carry(), ..conv1d::Config::new(Channels::new(2, 70, 140), 4) };
    list.extend([
        ("conv1d", Box::new(conv1d::Config::new(conv.shape, 1)) as Box<dyn Operator>),
        ("conv1d, state", Box::new(conv.clone())),
        ("conv1d, tiles", Box::new(conv1d::Config { shape: conv.shape.length(2100), ..conv.clone() })),
        (
            "conv1d, dilated far",
            Box::new(conv1d::Config { dilation: 90, layout: conv1d::ChannelLayout::Bnc, ..conv.clone() }),
        ),
        ("conv1d, decode", Box::new(conv1d::Config { shape: conv.shape.length(1), mode: conv.mode.decode(), ..conv })),
    ]);
    let scan = mamba::Config { mode: Mode::new().segment(48), ..mamba::Config::new(Channels::new(2, 140, 150), 6) };
    let every =
        mamba::Config { d: true, z: true, dt_bias: true, groups: Some(2), mode: scan.mode.carry(), ..scan.clone() };
    list.extend([
        (
            "mamba, one pass",
            Box::new(mamba::Config { mode: Mode { segment: None, ..scan.mode }, ..scan.clone() }) as Box<dyn Operator>,
        ),
        (
            "mamba, one pass, everything",
            Box::new(mamba::Config { mode: Mode { segment: None, ..every.mode }, ..every.clone() }),
        ),
        ("mamba, two passes", Box::new(scan)),
        ("mamba, two passes, everything", Box::new(every.clone())),
        ("mamba, lanes", Box::new(mamba::Config { states: 100, a_log: true, ..every.clone() })),
        (
            "mamba, decode",
            Box::new(mamba::Config {
                shape: every.shape.length(1),
                mode: Mode { segment: None, ..every.mode.decode() },
                ..every
            }),
        ),
    ]);
    for (what, operator) in list {
        let (stated, [read, written]) = moved(ctx, &*operator, &TensorMap::new());
        assert_eq!(read, stated.bytes_read, "{what}: bytes read");
        assert_eq!(written, stated.bytes_written, "{what}: bytes written");
    }
}

/// What a program states, and the bytes that its kernels count.
fn moved(ctx: &Context, operator: &dyn Operator, given: &TensorMap) -> (Cost, [f64; 2]) {
    moved_by(ctx, operator.program(ctx.caps()).unwrap(), given)
}

/// What a program states to move, and what it moves.
pub(crate) fn moved_by(ctx: &Context, program: Program, given: &TensorMap) -> (Cost, [f64; 2]) {
    let program = counting(program);
    let stated = program.cost();
    let plan = Plan::new(ctx, program).unwrap();
    let tensors = tensors_of(ctx, &plan, given);
    let mut workspace = Workspace::new();
    workspace.reserve(ctx, plan.workspace()).unwrap();
    let named: Vec<_> = plan.slots().iter().map(|s| s.name).zip(&tensors).collect();
    let mut schedule = Schedule::new();
    schedule.push(plan.bind(&named, &workspace).unwrap());
    readback::run(ctx, &schedule, &mut |_| {}).unwrap();
    let counters = readback::read_blocking(ctx, tensors.last().unwrap()).unwrap();
    let counts: Vec<u32> = counters.to_f32().iter().map(|x| x.to_bits()).collect();
    (stated, [0, 1].map(|i| f64::from(counts[i]) * 4.0))
}

/// Stated for slots that are nobody else's: there it is exact. Where tokens share all slots it is less.
fn a_memory_moves_what_is_stated_where_no_slot_is_shared_and_less_where_all_are() {
    let Some(ctx) = context() else { return };
    let few = ramnet::Config { topk: 2, cape: ramnet::Cape::Heads(vec![0]), ..ramnet::Config::new(1, 2, 15, 5, 0) };
    // Digits: which of two, the token (two digits), key or query. CAPE turns by one a token: four slots are enough.
    let of_two = |t: usize, query: usize| {
        let mut row = vec![0.0f32; 20];
        (row[0], row[1], row[4]) = (5.0, 4.0, 9.0);
        [t % 4, t / 4, query].into_iter().enumerate().for_each(|(u, digit)| row[4 * (u + 2) + digit] = 9.0);
        row
    };
    // Tiles of 32 tokens, which are merged. Digits: which of 64 (six digits), the token (six), key or query.
    let many = ramnet::Config { topk: 64, choices: 2, ..ramnet::Config::new(1, 2, 40, 1, 0) };
    let many = ramnet::Config { qkv: many.qkv.dim_k(26), ..many };
    let of_64 = |t: usize, query: usize| {
        let digits = (0..6).map(|bit| t >> bit & 1).chain([query]);
        let digit = |digit: usize| if digit == 0 { [9.0, 0.0] } else { [0.0, 9.0] };
        std::iter::repeat_n([0.0; 2], 6).chain(digits.map(digit)).flatten().collect()
    };
    type Row<'r> = &'r dyn Fn(usize, usize) -> Vec<f32>;
    let dims: [(_, Row<'_>, _); 2] = [(few, &of_two, [12, 70]), (many, &of_64, [12, 33])];
    for (c, row, dim) in dims.into_iter().flat_map(|(c, row, dims)| dims.map(|dim| (c.clone(), row, dim))) {
        let c = ramnet::Config { qkv: c.qkv.dim_v(dim), ..c };
        let (n, width) = (c.qkv.queries, c.qkv.dim_k);
        let rows = |query: usize, t: fn(usize) -> usize| -> Vec<f32> {
            (0..2 * n).flat_map(|i| row(t(i % n), query)).collect()
        };
        for shared in [false, true] {
            let t: fn(usize) -> usize = if shared { |_| 3 } else { |t| t };
            let given: TensorMap = [("q", rows(if shared { 0 } else { 1 }, t)), ("k", rows(0, t))]
                .map(|(name, rows)| (name.to_owned(), HostTensor::f32([1, 2, n, width], rows)))
                .into_iter()
                .collect();
            for c in [c.clone(), ramnet::Config { mode: c.mode.carry(), ..c.clone() }] {
                let c = if shared { ramnet::Config { cape: ramnet::Cape::None, ..c } } else { c };
                let program = c.program_as(ctx.caps(), ramnet::Form::Pieces).unwrap();
                let (stated, [read, written]) = moved_by(ctx, program, &given);
                let what =
                    format!("{} slots a token, {dim} columns, shared: {shared}, carried: {}", c.topk, c.mode.carry);
                if shared {
                    assert!(read < stated.bytes_read && written < stated.bytes_written, "{what}");
                } else {
                    assert_eq!(read, stated.bytes_read, "{what}: bytes read");
                    assert_eq!(written, stated.bytes_written, "{what}: bytes written");
                }
            }
        }
    }
}
