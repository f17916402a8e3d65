//! Whole models: published families beside the logits of transformers, our own form with every mixer, and what is refused.
//! An adapter runs them too; without one SUBQUAD_ALLOW_NO_ADAPTER=1 leaves that out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod families;
mod own;
mod refused;
#[cfg(feature = "tokenizers")]
mod tokenizers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use subquad::gpu::{AdapterRequest, Context};
use subquad::model::sampling::{Sampler, Settings};
use subquad::model::{Model, Session};
use subquad::verify::tolerance::relative_rms;
use subquad::{Error, HostTensor, TensorMap};

/// Largest error of logits in f32, relative RMS.
const TOLERANCE: f64 = 1e-5;

/// The device of all tests; `None`, with a printed line, where there is none and that is allowed.
fn context() -> Option<&'static Context> {
    static CONTEXT: OnceLock<Option<Context>> = OnceLock::new();
    let open = || match Context::open(&AdapterRequest { software: true, ..AdapterRequest::default() }) {
        Ok(context) => Some(context),
        Err(error) if std::env::var("SUBQUAD_ALLOW_NO_ADAPTER").is_ok_and(|v| v == "1") => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}; set SUBQUAD_ALLOW_NO_ADAPTER=1 to run the tests that need none"),
    };
    CONTEXT.get_or_init(open).as_ref()
}

/// Calls `check` with a session of the model on each backend, and the name of the backend.
fn on_each_backend<'m>(model: &'m Model, check: impl Fn(&str, &dyn Fn() -> Session<'m>)) {
    check("cpu", &|| Session::on_cpu(model).unwrap());
    if let Some(context) = context() {
        check("gpu", &|| Session::on_gpu(model, context).unwrap());
    }
}

/// Compares logits.
#[track_caller]
fn same(found: &HostTensor, expected: &[f64], what: &str) {
    let error = relative_rms(&found.to_f64(), expected);
    assert!(error <= TOLERANCE, "{what}: relative RMS {error:.2e}");
}

/// Logits of tokens in chunks of these lengths, one after another.
fn in_chunks(session: &mut Session<'_>, tokens: &[u32], length: usize) -> HostTensor {
    let (mut all, mut width) = (Vec::new(), 0);
    session
        .chunks(tokens, length, &mut |_, logits| {
            width = logits.shape().dims()[1];
            all.extend(logits.to_f32());
            Ok(())
        })
        .unwrap();
    HostTensor::f32([tokens.len(), width], all)
}

/// So many of the most likely tokens behind these.
fn greedy(session: &mut Session<'_>, tokens: &[u32], count: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(Settings::default()).unwrap();
    let (last, before) = tokens.split_last().unwrap();
    for token in before {
        session.advance(&[*token], true).unwrap();
    }
    let (mut next, mut added) = (*last, Vec::new());
    for _ in 0..count {
        let logits = session.advance(&[next], true).unwrap().unwrap();
        next = sampler.next(&logits.to_f32()).unwrap();
        added.push(next);
    }
    added
}

/// Writes the folder of a model.
fn write(folder: &Path, config: &str, tensors: &TensorMap) {
    std::fs::write(folder.join("config.json"), config).unwrap();
    subquad::io::write(&folder.join("model.safetensors"), tensors, &BTreeMap::new()).unwrap();
}

/// The sentence of an error.
#[track_caller]
fn said<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().to_string()
}
