//! Published families with random weights, beside the logits and the greedy text of transformers' own torch classes
//! (tools/goldens/models.py).

use std::path::PathBuf;

use subquad::model::Model;
use subquad::{HostTensor, TensorMap};

use super::{greedy, in_chunks, on_each_backend, same};

/// Tokens of the prompt that the greedy text of a golden continues.
const PROMPT: usize = 8;

fn golden(name: &str) -> Option<(Model, TensorMap)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models").join(name);
    if !folder.exists() {
        eprintln!("SKIPPED: the package has no goldens");
        return None;
    }
    let expected = subquad::io::read(&folder.join("expected.safetensors")).unwrap().tensors;
    Some((Model::open(&folder).unwrap(), expected))
}

fn tokens(tensor: &HostTensor) -> Vec<u32> {
    tensor.to_f64().into_iter().map(|token| token as u32).collect()
}

/// Compares whole runs, chunks, single tokens, and generated text.
fn check(name: &str) {
    let Some((model, expected)) = golden(name) else { return };
    let given = tokens(expected.get("tokens").unwrap());
    let logits = expected.get("logits").unwrap().to_f64();
    let text = tokens(expected.get("greedy").unwrap());
    on_each_backend(&model, |backend, session| {
        same(&session().run(&given).unwrap(), &logits, &format!("{name} on {backend}"));
        // Every length needs kernels of its own, which a software adapter compiles for seconds.
        for length in if backend == "cpu" { &[1, 7][..] } else { &[13] } {
            let length = *length;
            let found = in_chunks(&mut session(), &given, length);
            same(&found, &logits, &format!("{name} on {backend}, {length} tokens at a time"));
        }
        let found = greedy(&mut session(), &given[..PROMPT], text.len());
        assert_eq!(found, text, "{name} on {backend}: greedy text");
    });
}

#[test]
fn mamba() {
    check("mamba");
}

#[test]
fn mamba_with_weights_in_f16() {
    check("mamba_f16");
}

#[test]
fn mamba2() {
    check("mamba2");
}

#[test]
fn mamba2_in_several_files_in_bf16() {
    check("mamba2_sharded");
}

#[test]
fn bamba() {
    check("bamba");
}

#[test]
fn granite_without_positions() {
    check("granite");
}

#[test]
fn granite_with_rotary_positions() {
    check("granite_rope");
}

#[test]
fn qwen3_next() {
    check("qwen3_next");
}

#[test]
fn qwen3_next_in_the_keys_of_older_files() {
    check("qwen3_next_older");
}
