//! RAM-Net's forms on a GPU, tokens in order and sorted pieces, each for shapes that a plan would give the other.

use libtest_mimic::Trial;
use subquad::gpu::Caps;
use subquad::operator::Operator;
use subquad::operator::mode::{Direction, Mode};
use subquad::ops::ramnet::{Cape, Config, Form};
use subquad::tensor::{HostTensor, Values};

use crate::bytes::moved_by;
use crate::ramnet::{inputs, several};
use crate::support::{assert_matches, context, on_gpu_with, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test(both_forms_match_the_definition),
        test(tables_of_any_size_match_the_definition),
        test(a_table_moves_the_bytes_that_are_stated),
        test(blocks_carry_the_memory),
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

/// Blocks of few tokens, because bindings are small: the memory goes from one to the next, also of packed sequences.
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
        let program = c.program(&caps).unwrap();
        let blocks = program.steps().iter().filter(|step| step.kernel.name == "ramnet_table").count();
        assert!(blocks > 2, "{}", program.variant());
        let got = on_gpu_with(ctx, program, &all);
        assert_matches(&format!("{mode:?}"), &c, &all, &got);
    }
}
