//! Models with a `tokenizer.json`: texts as tokens and back, and what is refused. Runs with the feature `tokenizers`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use subquad::model::Model;
use subquad::model::tokens::Tokenizer;

use super::{own, said};

/// Pieces of two characters, as merges have them; the first of each pair may stand for a space.
const PAIRS: [(&str, &str); 3] = [("h", "e"), ("\u{120}", "w"), ("\u{120}w", "a")];

/// A tokenizer of bytes and pairs, as many published models have: printable ASCII, a space and the two bytes of an e with an acute.
fn byte_level(first: u32) -> Value {
    let letters =
        (33..127u8).map(|byte| (byte as char).to_string()).chain(["\u{120}", "\u{c3}", "\u{a9}"].map(String::from));
    let pieces = letters.chain(PAIRS.map(|(left, right)| format!("{left}{right}")));
    let vocab: BTreeMap<String, u32> = pieces.zip(first..).collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": level, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": PAIRS.map(|(left, right)| [left, right]),
        },
    })
}

/// The model of a folder whose tokens are those of a tokenizer.
fn model(tokenizer: Option<&Value>) -> (tempfile::TempDir, Model) {
    let (folder, model) = own::model(r#""tokens": "tokenizer","#, "", &[own::softmax_layer()]);
    if let Some(tokenizer) = tokenizer {
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    }
    (folder, model)
}

#[test]
fn texts_become_pieces_and_pieces_texts() {
    let (_folder, model) = model(Some(&byte_level(0)));
    let tokenizer = Tokenizer::of(&model).unwrap();
    let text = "he was cr\u{e9}ative";
    let tokens = tokenizer.encode(text.as_bytes()).unwrap();
    assert_eq!(tokens.len(), text.len() - 1 - 2, "{tokens:?}");
    assert_eq!(tokens[..2], [97, 99]);
    assert_eq!(tokenizer.decode(&tokens).unwrap(), text.as_bytes());
    // Whatever the cut, both sides together are the text, but for a character that the cut divides.
    for at in 1..tokens.len() {
        let (before, after) = tokens.split_at(at);
        let start = tokenizer.decode(before).unwrap();
        let whole = [start.clone(), tokenizer.decode_after(before, after).unwrap()].concat();
        if !start.ends_with("\u{fffd}".as_bytes()) {
            assert_eq!(whole, text.as_bytes(), "cut at {at}");
        }
    }
    let refused = said(tokenizer.encode(b"he \xff"));
    assert!(
        refused.starts_with("tokenizer: tensor `text`: expected text in UTF-8, found invalid utf-8 sequence"),
        "{refused}"
    );
}

#[test]
fn a_tokenizer_must_be_there_and_fit_the_vocabulary() {
    let of = |tokenizer: Option<&Value>| {
        let (folder, model) = model(tokenizer);
        said(Tokenizer::of(&model)).replace(&path(folder.path()), "tokenizer.json")
    };
    assert_eq!(
        of(None),
        "tokenizer.json: is needed to turn a text into tokens, and is not there; a file with the tensor `tokens` runs without"
    );
    // 100 pieces from 157 on.
    assert_eq!(of(Some(&byte_level(157))), "tokenizer.json: expected tokens below the vocabulary of 256, found 256");
    let said = of(Some(&json!({"model": 3})));
    assert!(said.starts_with("tokenizer.json: expected a tokenizer, found "), "{said}");
}

fn path(folder: &Path) -> String {
    folder.join("tokenizer.json").display().to_string()
}
