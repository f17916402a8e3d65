//! `subquad model` as a user meets it, with a tiny model of bytes.

use super::*;

const CPU: &str = "--backend cpu --quiet";

/// A place with the model `m`, which reads bytes and has the head of these keys.
fn place(head: &str) -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("m")).unwrap();
    let config = format!(
        r#"{{"model_type": "subquad", "vocab_size": 256, "hidden_size": 4, "layers": [{{"mixer": "conv1d"}}], {head}}}"#
    );
    std::fs::write(place.path("m/config.json"), config).unwrap();
    let mut tensors: Vec<(&str, &[usize])> = vec![
        ("embed.weight", &[256, 4]),
        ("layers.0.norm1.weight", &[4]),
        ("layers.0.mixer.weight", &[4, 1, 3]),
        ("layers.0.mixer.o.weight", &[4, 4]),
        ("norm.weight", &[4]),
    ];
    if head.contains("classes") {
        tensors.push(("head.weight", &[3, 4]));
    }
    place.write("m/model.safetensors", &tensors);
    std::fs::write(place.path("text"), "In the beginning was the word, and \u{e9}").unwrap();
    place
}

fn language() -> Place {
    place(r#""tie_embeddings": true"#)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn logits_of_bytes_and_of_tokens_are_those_of_chunks() {
    let place = language();
    let out = place.done(&format!("model run m --input text --output a.safetensors --verify {CPU}"));
    assert!(out.starts_with("37 tokens in ") && out.contains("logits [37, 256]"), "{out}");
    assert!(out.contains("logits: error ") && out.ends_with(": ok\n"), "{out}");
    place.done(&format!("model run m --input text --chunk 5 --output b.safetensors {CPU}"));
    let bytes = std::fs::read(place.path("text")).unwrap();
    let tokens = HostTensor::new([37], Values::I64(bytes.iter().map(|byte| i64::from(*byte)).collect()));
    place.write_map("t.safetensors", &[("tokens".to_owned(), tokens)].into_iter().collect());
    place.done(&format!("model run m --input t.safetensors --output c.safetensors {CPU}"));
    for other in ["b", "c"] {
        place.done(&format!("diff a.safetensors {other}.safetensors"));
    }
}

#[test]
fn a_score_goes_on_over_files_and_is_that_of_the_logits() {
    let place = language();
    place.done(&format!("model run m --input text --output a.safetensors {CPU}"));
    let logits = place.tensor("a.safetensors", "logits").to_f64();
    let bytes = std::fs::read(place.path("text")).unwrap();
    let cost = |row: &[f64], byte: u8| {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        (sum.ln() - row[usize::from(byte)]) / std::f64::consts::LN_2
    };
    let bits: f64 = logits.chunks_exact(256).zip(&bytes[1..]).map(|(row, byte)| cost(row, *byte)).sum();
    let whole = json(&place.done(&format!("model score m --input text --json {CPU}")));
    let close = |found: &serde_json::Value, expected: f64| (found.as_f64().unwrap() / expected - 1.0).abs() < 1e-5;
    assert!(close(&whole["bits"], bits), "{whole} {bits}");
    assert!(close(&whole["bits_per_byte"], bits / 37.0) && close(&whole["bits_per_token"], bits / 36.0), "{whole}");
    assert_eq!(whole["tokens"], 36);

    std::fs::write(place.path("one"), &bytes[..20]).unwrap();
    std::fs::write(place.path("two"), &bytes[20..]).unwrap();
    let one = json(&place.done(&format!("model score m --input one --state-out s.safetensors --json {CPU}")));
    let two = json(&place.done(&format!("model score m --input two --state-in s.safetensors --json {CPU}")));
    assert_eq!((&one["tokens"], &two["tokens"]), (&19.into(), &17.into()));
    let both = one["bits"].as_f64().unwrap() + two["bits"].as_f64().unwrap();
    assert!(close(&whole["bits"], both), "{one} {two}");
}

#[test]
fn text_is_the_same_for_the_same_seed_and_greedy_without_one() {
    let place = language();
    let run = |more: &str| {
        let mut arguments = vec!["model", "generate", "m", "--prompt", "In the", "--tokens", "12", "--json"];
        arguments.extend(CPU.split(' ').chain(more.split_whitespace()));
        let ran = Ran::of(&mut place.command(&arguments));
        assert_eq!(ran.code, 0, "{ran:?}");
        json(&ran.out)["tokens"].clone()
    };
    assert_eq!(run("").as_array().unwrap().len(), 12);
    assert_eq!(run(""), run("--temperature 1 --top-k 1 --seed 5"));
    let drawn = run("--temperature 3 --seed 7");
    assert_eq!(drawn, run("--temperature 3 --seed 7"));
    assert_ne!(drawn, run("--temperature 3 --seed 8"));
    let ran = Ran::of(&mut place.command(&[
        "model",
        "generate",
        "m",
        "--prompt-file",
        "text",
        "--tokens",
        "5",
        "--backend",
        "cpu",
    ]));
    assert!(ran.err.contains("prompt: 37 tokens") && ran.err.contains("text: 5 tokens"), "{ran:?}");
}

#[test]
fn labels_are_named_and_listed_by_range() {
    let place = place(r#""head": "tags", "classes": 3, "labels": ["a", "b", "c"]"#);
    let out = json(&place.done(&format!("model run m --input text --json {CPU}")));
    let ranges = out["labels"].as_array().unwrap();
    assert_eq!(ranges[0][0], 0);
    assert_eq!(ranges.last().unwrap()[1], 37);
    assert!(ranges.windows(2).all(|pair| pair[0][1] == pair[1][0] && pair[0][2] != pair[1][2]), "{out}");
    assert!(ranges.iter().all(|range| ["a", "b", "c"].contains(&range[2].as_str().unwrap())), "{out}");
    let sentence = "subquad: `head`: expected lm, of a causal model, to score a text, found another head";
    place.refuse(&format!("model score m --input text {CPU}"), 1, sentence);
}

#[test]
fn parts_are_listed_with_their_bytes_and_dispatches() {
    let place = language();
    let out = json(&place.done("model inspect m --json"));
    // The embedding, two norms, the convolution, the projection.
    assert_eq!(out["parameters"], 256 * 4 + 4 + 4 + 12 + 16);
    assert_eq!(out["weight_bytes"], 4 * (256 * 4 + 4 + 4 + 12 + 16));
    let parts: Vec<_> = out["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(parts, ["embed", "layers.0", "norm", "head"]);
    // Two inputs of four channels, and the position.
    assert_eq!(out["state_bytes"], 2 * 4 * 4 + 4);
    // A token reads all weights, the tied embedding as the head, and writes its logits; all else is small here.
    let least = out["weight_bytes"].as_u64().unwrap() + 4 * 256;
    let bytes = out["bytes_per_token"].as_u64().unwrap();
    assert!((least..least + 1000).contains(&bytes), "{bytes}, at least {least}");
    assert!(place.done("model inspect m").starts_with("subquad: 1 layers of width 4, vocabulary 256, 1060 parameters"));
}

#[test]
fn lengths_are_timed() {
    let place = language();
    let out = json(&place.done(&format!("model bench m --lengths 3,9 --repeats 1 --json {CPU}")));
    let rows = out["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[1]["length"]), (2, &9.into()));
    assert!(rows.iter().all(|row| row["prefill_seconds"].as_f64().unwrap() > 0.0), "{out}");
    assert!(rows.iter().all(|row| row["decode_floor_seconds"].as_f64().unwrap() > 0.0), "{out}");
}

#[test]
fn wrong_use_is_one_sentence() {
    let place = language();
    place.refuse("model run m --input text --text x", 2, "model: --input and --text cannot be used together");
    place.refuse("model run m", 2, "model: --input or --text is needed");
    place.refuse(
        "model run m --input text --chunk 0",
        2,
        "model: --chunk: expected a whole number of 1 or more, found `0`",
    );
    let sentence = "model: --prompt or --prompt-file is needed";
    place.refuse("model generate m --tokens 3", 2, sentence);
    place.refuse(
        "model generate m --prompt x --tokens 3 --top-p 2",
        2,
        "generate: --top-p: expected a number above 0, at most 1, found 2",
    );
    std::fs::write(place.path("empty"), "").unwrap();
    place.refuse("model run m --input empty", 1, "empty: expected a text of one byte or more, found none");
    place.write("x.safetensors", &[("x", &[2])]);
    place.refuse(
        "model run m --input x.safetensors",
        1,
        "x.safetensors: tensor `tokens`: expected whole numbers, found none",
    );
    place.refuse(
        "model inspect nowhere",
        1,
        "nowhere: expected a folder with config.json and *.safetensors, found none",
    );
    let wide = HostTensor::new([2], Values::I64(vec![3, 256]));
    place.write_map("wide.safetensors", &[("tokens".to_owned(), wide)].into_iter().collect());
    let sentence = "subquad: tensor `tokens`: expected numbers below the vocabulary of 256, found 256 at 1";
    place.refuse(&format!("model run m --input wide.safetensors {CPU}"), 1, sentence);
}
