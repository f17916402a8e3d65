//! RAM-Net's forms on a GPU, tokens in order and sorted pieces, each for shapes that a plan would give the other.

use libtest_mimic::Trial;
use subquad::gpu::{Caps, Program};
use subquad::operator::Operator;
use subquad::operator::mode::{Direction, Mode};
use subquad::ops::ramnet::{Cape, Config, Form, Rule};
use subquad::tensor::{HostTensor, TensorMap, Values};

use crate::bytes::moved_by;
use crate::pieces::join;
use crate::ramnet::{inputs, several};
use crate::support::{assert_matches, assert_same_bits, context, cut, on_gpu_with, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(both_forms_match_the_definition),
        test(tables_of_any_size_match_the_definition),
        test(a_table_moves_the_bytes_that_are_stated),
        test(blocks_carry_the_memory),
        test(tiles_of_sorted_events_are_merged_into_blocks),
        test(runs_over_several_tiles_depend_on_earlier_events_only),
    ]
}

/// Borders of five sequences, of which one has no tokens, over so many tokens.
fn borders(tokens: u32) -> HostTensor {
    HostTensor::new([6], Values::U32(vec![0, 1, tokens / 2, tokens / 2, tokens - 20, tokens]))
}

/// The form in which events are applied depends on the shape; each form is right for every shape.
fn both_forms_match_the_definition() {
    let Some(ctx) = context() else { return };
    let modes = [
        Mode::new(),
        Mode::new().carry().segment(48),
        Mode::new().direction(Direction::Backward),
        Mode::new().direction(Direction::Both),
        Mode::new().sequences(5).carry(),
        Mode::new().sequences(5).direction(Direction::Both),
    ];
    for (at, c) in several().into_iter().enumerate() {
        // Every mode with two of the shapes, so that few kernels are compiled.
        for mode in modes.iter().enumerate().filter(|(mode, _)| mode % 2 == at % 2).map(|(_, mode)| *mode) {
            let c = Config { mode, ..c.clone() };
            let mut all = inputs(&c);
            if mode.sequences.is_some() {
                all.insert("cu_seqlens", borders(c.qkv.queries as u32));
            }
            for form in [Form::Table, Form::Pieces] {
                let program = c.program_as(ctx.caps(), form).unwrap();
                assert_matches(&format!("{form:?}: {c:?}"), &c, &all, &on_gpu_with(ctx, program, &all));
            }
        }
    }
}

/// A table in the memory itself, for slots and ranks that are many.
fn tables_of_any_size_match_the_definition() {
    let Some(ctx) = context() else { return };
    for (choices, digits, topk) in [(2, 11, 40), (40, 1, 40), (2, 1, 1)] {
        let base = Config::new(1, 2, 60, digits, 5);
        let c = Config { choices, topk, qkv: base.qkv.dim_k(choices * digits), mode: Mode::new().carry(), ..base };
        let all = inputs(&c);
        let program = c.program_as(ctx.caps(), Form::Table).unwrap();
        assert_matches(&format!("{c:?}"), &c, &all, &on_gpu_with(ctx, program, &all));
    }
}

/// Tokens in order move what is stated, whatever their slots; with packed sequences at most that.
fn a_table_moves_the_bytes_that_are_stated() {
    let Some(ctx) = context() else { return };
    let base = Config { topk: 5, cape: Cape::Heads(vec![0]), ..Config::new(1, 2, 45, 3, 9) };
    for mode in [Mode::new(), Mode::new().carry(), Mode::new().direction(Direction::Both), Mode::new().sequences(5)] {
        let c = Config { mode, ..base.clone() };
        let mut all = inputs(&c);
        if mode.sequences.is_some() {
            all.insert("cu_seqlens", borders(45));
        }
        let (stated, [read, written]) = moved_by(ctx, c.program(ctx.caps()).unwrap(), &all);
        if mode.sequences.is_some() {
            assert!(read <= stated.bytes_read && written <= stated.bytes_written, "{mode:?}");
        } else {
            assert_eq!([read, written], [stated.bytes_read, stated.bytes_written], "{mode:?}");
        }
    }
}

/// Blocks of few tokens, because bindings are small: the memory goes from one to the next, also of packed sequences, in either
/// form.
fn blocks_carry_the_memory() {
    let Some(ctx) = context() else { return };
    let base = Config::new(1, 2, 300, 2, 5);
    let small = wgpu::Limits { max_storage_buffer_binding_size: 16 << 10, ..ctx.caps().limits.clone() };
    let caps = Caps { limits: small, ..ctx.caps().clone() };
    for mode in [Mode::new(), Mode::new().carry(), Mode::new().sequences(5)] {
        let c = Config { mode, ..base.clone() };
        let mut all = inputs(&c);
        if mode.sequences.is_some() {
            all.insert("cu_seqlens", borders(300));
        }
        for (form, kernel) in [(Form::Table, "ramnet_table"), (Form::Pieces, "ramnet_rates")] {
            if form == Form::Pieces && mode.sequences.is_some() {
                continue;
            }
            let program = c.program_as(&caps, form).unwrap();
            assert!(dispatches(&program, kernel) > 2, "{}", program.variant());
            let got = on_gpu_with(ctx, program, &all);
            assert_matches(&format!("{form:?}: {mode:?}"), &c, &all, &got);
        }
    }
}

fn dispatches(program: &Program, kernel: &str) -> usize {
    program.steps().iter().filter(|step| step.kernel.name == kernel).count()
}

/// 16 slots, of which each token writes and reads 12: runs of hundreds of events in tiles of 170 tokens, eight in a block.
fn crowded(tokens: usize) -> Config {
    let base = Config::new(1, 2, tokens, 2, 5);
    Config { choices: 2, qkv: base.qkv.dim_k(8), topk: 12, cape: Cape::Heads(vec![1]), ..base }
}

/// Several tiles with long runs, several blocks of them, and tiles of runs that are short.
fn tiles_of_sorted_events_are_merged_into_blocks() {
    let Some(ctx) = context() else { return };
    let many = Config::new(1, 2, 100, 11, 5);
    let many = Config { choices: 2, qkv: many.qkv.dim_k(22), topk: 64, rule: Rule::Pdma, ..many };
    for (c, blocks) in [(crowded(400), 1), (crowded(1500), 2), (many, 1)] {
        for mode in [Mode::new().carry(), Mode::new().direction(Direction::Backward)] {
            let c = Config { mode, ..c.clone() };
            let all = inputs(&c);
            let program = c.program_as(ctx.caps(), Form::Pieces).unwrap();
            assert_eq!(dispatches(&program, "ramnet_rates"), blocks, "{c:?}");
            // A block that is a single tile needs no merge.
            assert_eq!(dispatches(&program, "ramnet_merge"), 1, "{c:?}");
            assert_matches(&format!("{c:?}"), &c, &all, &on_gpu_with(ctx, program, &all));
        }
    }
}

/// The sorted form in two pieces, cut behind its first segment, gives the bits of the whole.
fn cut_at_segments(whole: Config) {
    let Some(ctx) = context() else { return };
    let run = |c: &Config, all: &TensorMap| on_gpu_with(ctx, c.program_as(ctx.caps(), Form::Pieces).unwrap(), all);
    let (at, n) = (whole.mode.segment.unwrap(), whole.qkv.queries);
    let part = |all: &TensorMap, from, to| -> TensorMap {
        all.iter().map(|(name, tensor)| (name.to_owned(), cut(tensor, 2, from, to))).collect()
    };
    let of = |tokens| Config { qkv: whole.qkv.queries(tokens).keys(tokens), ..whole.clone() };
    let all = inputs(&whole);
    let want = run(&whole, &all);
    let first = run(&of(at), &part(&all, 0, at));
    let mut rest = part(&all, at, n);
    for name in ["state", "mass", "position"] {
        rest.insert(name, first.get(name).unwrap().clone());
    }
    let second = run(&of(n - at), &rest);
    let o = join(&[first.get("o").unwrap().clone(), second.get("o").unwrap().clone()], 2);
    assert_same_bits(&format!("o, cut at {at}"), &o, want.get("o").unwrap());
    for name in ["state", "mass", "position"] {
        assert_same_bits(&format!("{name}, cut at {at}"), second.get(name).unwrap(), want.get(name).unwrap());
    }
}

/// Neither later tokens nor cuts between segments change a bit, wherever the events of a run lie among the sorted ones.
fn runs_over_several_tiles_depend_on_earlier_events_only() {
    let Some(ctx) = context() else { return };
    let run = |c: &Config, all: &TensorMap| on_gpu_with(ctx, c.program_as(ctx.caps(), Form::Pieces).unwrap(), all);
    cut_at_segments(Config { mode: Mode::new().carry().segment(200), ..crowded(400) });
    // So wide that all heads sort a segment of 170 tokens in blocks of 85, and could sort the rest of 100 at once.
    let wide = crowded(270);
    let wide = Config { qkv: wide.qkv.heads(5).dim_v(1024), cape: Cape::None, ..wide };
    cut_at_segments(Config { mode: Mode::new().carry().segment(170), ..wide });

    let c = crowded(400);
    let all = inputs(&c);
    let o = run(&c, &all).remove("o").unwrap();
    for at in [33, 250, 399] {
        // From there on the tokens of the beginning, in reverse.
        let changed = all.iter().map(|(name, tensor)| {
            let later: Vec<HostTensor> = (0..400 - at).rev().map(|t| cut(tensor, 2, t, t + 1)).collect();
            (name.to_owned(), join(&[&[cut(tensor, 2, 0, at)], later.as_slice()].concat(), 2))
        });
        let got = run(&c, &changed.collect()).remove("o").unwrap();
        assert_same_bits(&format!("before token {at}"), &cut(&got, 2, 0, at), &cut(&o, 2, 0, at));
        assert!(cut(&got, 2, at, 400).bytes() != cut(&o, 2, at, 400).bytes(), "from token {at} on");
    }
}
