//! What is refused when a model is opened: one sentence that names the key or the tensor, before any weight is read.

use std::fs;
use std::path::Path;

use subquad::model::{Model, Session};
use subquad::{HostTensor, TensorMap};

use super::own::{self, Layer};
use super::{said, write};

/// The sentence for the model in a folder, without its path.
#[track_caller]
fn refused(folder: &Path) -> String {
    said(Model::open(folder)).replace(&format!("{}/", folder.display()), "")
}

fn replace(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn good() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    own::write_model(folder.path(), "", "", &[softmax()]);
    folder
}

fn softmax() -> Layer {
    own::softmax_layer()
}

#[test]
fn keys() {
    let of = |from: &str, to: &str| {
        let folder = good();
        replace(folder.path(), from, to);
        refused(folder.path())
    };
    let families = "mamba, mamba2, bamba, granitemoehybrid, qwen3_next, subquad";
    assert_eq!(
        of(r#""subquad""#, r#""bert""#),
        format!("config.json: `model_type`: expected one of {families}, found `bert`")
    );
    let said = of(r#""hidden_size""#, r#""sliding": true, "hidden_size""#);
    assert_eq!(said, "config.json: `sliding`: is not understood, and could change the result: subquad has no such key");
    let said = of(r#""heads""#, r#""window_size": 3, "heads""#);
    assert_eq!(
        said,
        "config.json: `layers[0].window_size`: is not understood, and could change the result: the mixer softmax has no such key"
    );
    let said = of(r#""heads": 3"#, r#""heads": 0"#);
    assert_eq!(said, "config.json: `layers[0].heads`: expected a whole number from 1 to 2^31 - 1, found 0");
    let said = of(r#""softmax""#, r#""attention""#);
    assert!(said.starts_with("config.json: `layers[0].mixer`: expected one of softmax, yat, "), "{said}");
    assert!(of(r#""vocab_size": 256"#, r#""vocab_size": 200"#).contains("256 or more, for tokens that are bytes"));
    assert!(of("{", "[").starts_with("config.json: expected a JSON object"));
}

#[test]
fn tensors() {
    let with = |change: &dyn Fn(&mut TensorMap)| {
        let folder = good();
        let path = folder.path().join("model.safetensors");
        let mut tensors = subquad::io::read(&path).unwrap().tensors;
        change(&mut tensors);
        let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
        write(folder.path(), &config, &tensors);
        refused(folder.path())
    };
    let said = with(&|all| drop(all.remove("layers.0.mixer.v.weight")));
    assert!(said.starts_with("subquad: tensor `layers.0.mixer.v.weight`: expected [12, 12], found none"), "{said}");
    let said = with(&|all| all.insert("norm.weight", HostTensor::f32([3], vec![1.0; 3])));
    assert_eq!(said, "subquad: tensor `norm.weight`: expected [12], found [3]");
    let said = with(&|all| all.insert("layers.1.norm1.weight", HostTensor::f32([12], vec![1.0; 12])));
    assert_eq!(said, "model.safetensors: tensor `layers.1.norm1.weight` (f32 [12]): is no part of this subquad model");
}

#[test]
fn files() {
    let folder = good();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert!(said(Model::open(folder.path())).ends_with("expected weights in *.safetensors, found no such file"));
    let folder = good();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    assert!(refused(folder.path()).contains("truncated"));
    let index = r#"{"weight_map": {"norm.weight": "../model.safetensors"}}"#;
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    assert!(refused(folder.path()).contains("expected the name of a file in the folder"));
    assert!(said(Model::open(Path::new("/nowhere"))).contains("expected a folder with config.json"));
}

#[test]
fn tokens_and_states() {
    let folder = good();
    let model = Model::open(folder.path()).unwrap();
    let mut session = Session::on_cpu(&model).unwrap();
    let outside = said(session.run(&[3, 256]));
    assert_eq!(outside, "subquad: tensor `tokens`: expected numbers below the vocabulary of 256, found 256 at 1");
    assert_eq!(said(session.run(&[])), "subquad: tensor `tokens`: expected one token or more, found none");
    session.advance(&[1, 2, 3], false).unwrap();
    let state = session.state().unwrap();
    let with = |change: &dyn Fn(&mut TensorMap)| {
        let mut state = state.clone();
        change(&mut state);
        said(Session::on_cpu(&model).unwrap().set_state(state))
    };
    assert!(with(&|state| drop(state.remove("position"))).starts_with("subquad: tensor `position`: expected i64 [1]"));
    let said = with(&|state| drop(state.remove("layers.0.v_cache")));
    assert!(said.starts_with("subquad: tensor `layers.0.v_cache`: expected [1, 3, 3, 4], found none"), "{said}");
    let longer = HostTensor::f32([1, 4, 3, 4], vec![0.0; 48]);
    let said = with(&|state| state.insert("layers.0.v_cache", longer.clone()));
    assert_eq!(said, "subquad: tensor `layers.0.v_cache`: expected [1, 3, 3, 4], found [1, 4, 3, 4]");
    assert!(with(&|state| state.insert("more", longer.clone())).contains("the states of this model and no others"));
}

#[test]
fn more_tokens_than_learned_positions() {
    let keys = r#""positions": "learned", "max_len": 32,"#;
    let (_folder, model) = own::model(keys, "", &[softmax()]);
    let mut session = Session::on_cpu(&model).unwrap();
    session.advance(&[1; 30], false).unwrap();
    session.advance(&[1; 2], false).unwrap();
    assert_eq!(
        said(session.advance(&[1], false)),
        "subquad: tensor `tokens`: expected at most the 32 learned positions, found 33"
    );
}
