//! The layer below the operators: timers, schedules, probes.

use std::time::Instant;

use libtest_mimic::Trial;
use subquad::catalog::random;
use subquad::gpu::{Plan, Program, Schedule, Timer, Workspace, readback};
use subquad::measure::probes;
use subquad::operator::Operator;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::ops::linear::Config;
use subquad::tensor::{Access, HostTensor};

use crate::bytes::tensors;
use crate::support::{context, test, unchecked_context};

fn a_timer_sees_every_dispatch() {
    let Some(ctx) = context() else { return };
    let Some(mut timer) = Timer::new(ctx, 3) else {
        eprintln!("SKIPPED: {} has no timestamps", ctx.info().name);
        return;
    };
    let config = Config { mode: Mode::new().segment(64), ..Config::new(Qkv::new().heads(2).len(256).dim(32)) };
    let plan = Plan::new(ctx, config.program(ctx.caps()).unwrap()).unwrap();
    let tensors = tensors(ctx, &plan);
    let mut workspace = Workspace::new();
    workspace.reserve(ctx, plan.workspace()).unwrap();
    let named: Vec<_> = plan.slots().iter().map(|s| s.name).zip(&tensors).collect();
    let recording = plan.bind(&named, &workspace).unwrap();
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    recording.encode_timed(&mut encoder, &mut timer);
    timer.resolve(&mut encoder);
    readback::submit(ctx, encoder).unwrap();
    let spans = pollster::block_on(readback::read_timer(ctx, &timer)).unwrap();
    let labels: Vec<_> = spans.iter().map(|s| s.label.split('.').next().unwrap()).collect();
    assert_eq!(labels, ["linear_segment", "linear_scan", "linear_output"]);
    assert!(spans.iter().all(|s| s.nanoseconds.is_some_and(|t| t > 0.0)), "{spans:?}");
}

fn long_steps_are_cut_and_give_the_same() {
    let Some(ctx) = context() else { return };
    let config = Config { mode: Mode::new().segment(32), ..Config::new(Qkv::new().batch(2).heads(4).len(256).dim(16)) };
    let plan = Plan::new(ctx, config.program(ctx.caps()).unwrap()).unwrap();
    let tensors = tensors(ctx, &plan);
    let mut workspace = Workspace::new();
    workspace.reserve(ctx, plan.workspace()).unwrap();
    let named: Vec<_> = plan.slots().iter().map(|s| s.name).zip(&tensors).collect();
    let o = tensors.last().unwrap();
    let run = |schedule: &Schedule| {
        readback::fill(ctx, o.buffer(), 0xff);
        readback::run(ctx, schedule, &mut |_| {}).unwrap();
        readback::read_blocking(ctx, o).unwrap()
    };
    let mut whole = Schedule::new();
    whole.push(plan.bind(&named, &workspace).unwrap());
    // A device that counts as full with one group, and steps that claim more work than they have, are cut into many
    // dispatches over parts of the same grid.
    let claimed = config.program(ctx.caps()).unwrap().edited(|_, _, steps| {
        let factor = 40.0 * ctx.caps().dispatch_flops / steps[0].cost.flops;
        steps.iter_mut().for_each(|s| s.cost.flops *= factor);
    });
    let cut_plan = Plan::new(ctx, claimed).unwrap();
    let mut cut = Schedule::new();
    cut.push(cut_plan.bind(&named, &workspace).unwrap());
    assert!(cut.recordings()[0].len() >= 2 * 64 / ctx.caps().full_groups as usize, "{cut}");
    assert!(cut.submissions(ctx.caps().dispatch_flops).len() > 2);
    assert_eq!(whole.submissions(f64::INFINITY).len(), 1);
    assert_eq!(run(&whole), run(&cut));
}

/// What `bench` measures everything beside: the copy copies, and sums of arithmetic are what they converge to.
fn probes_do_what_they_are_timed_for() {
    let Some(ctx) = context() else { return };
    let run = |program: Program, source: Option<&HostTensor>| {
        let plan = Plan::new(ctx, program).unwrap();
        let tensors: Vec<_> = plan
            .slots()
            .iter()
            .map(|slot| match source {
                Some(source) if slot.access == Access::Read => readback::upload(ctx, slot.name, source).unwrap(),
                _ => readback::empty(ctx, slot.name, slot.shape(), slot.dtype).unwrap(),
            })
            .collect();
        let named: Vec<_> = plan.slots().iter().map(|slot| slot.name).zip(&tensors).collect();
        let mut schedule = Schedule::new();
        schedule.push(plan.bind(&named, &Workspace::new()).unwrap());
        let lap = readback::time(ctx, &schedule, 3).unwrap();
        assert!(lap.wall > 0.0 && lap.gpu.is_none_or(|gpu| gpu > 0.0), "{lap:?}");
        assert!(lap.gpu.is_some() || lap.rejected || !ctx.caps().timestamps, "{lap:?}");
        readback::read_blocking(ctx, tensors.last().unwrap()).unwrap().to_f32()
    };
    // No multiple of what a workgroup copies.
    let bytes = 2 * 16 * 5001;
    let source = HostTensor::f32([5001, 4], random::normal(3, 0, 5001 * 4));
    assert_eq!(run(probes::copy(ctx.caps(), bytes), Some(&source)), source.to_f32());
    for (program, want) in [(probes::multiply_add(ctx.caps()), 8.0), (probes::exp2(ctx.caps()), 4.0 * 0.641_185_7)] {
        let (cost, name) = (program.cost(), program.variant().to_owned());
        assert!(cost.flops + cost.exps > 0.0);
        let sums = run(program, None);
        assert!(sums.iter().all(|x| (x - want).abs() < 1e-3), "{name}: {} for {want}", sums[0]);
    }
}

/// An adapter that the tests run on computes right, with shader checks and without, and finds that out fast.
fn the_self_test_finds_nothing_wrong() {
    let (Some(checked), Some(unchecked)) = (context(), unchecked_context()) else { return };
    for ctx in [checked, unchecked] {
        let start = Instant::now();
        assert_eq!(ctx.self_test().unwrap(), None, "{}", ctx.info().name);
        eprintln!("self-test: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(the_self_test_finds_nothing_wrong),
        test(a_timer_sees_every_dispatch),
        test(long_steps_are_cut_and_give_the_same),
        test(probes_do_what_they_are_timed_for),
    ]
}
