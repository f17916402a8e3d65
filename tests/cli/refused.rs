//! Bad input is refused in one sentence each: the last paragraph of the contract, and the conventions of `linear`.

use super::*;

const RUN: &str = "run linear --backend cpu --output o.safetensors --input";

#[track_caller]
fn refuse(tensors: &[(&str, &[usize])], flags: &str, sentence: &str) {
    let place = Place::new();
    place.write("in.safetensors", tensors);
    place.refuse(&format!("{RUN} in.safetensors {flags}"), 1, sentence);
}

#[test]
fn a_missing_tensor_is_named_with_those_there_are() {
    refuse(&PLAIN[..2], "", "linear: tensor `v`: expected [B, G, M, E], found none (given: q, k)");
    refuse(
        &[("query", &[6, 4]), ("key", &[6, 4])],
        "--layout bnhd",
        "linear: tensor `q`: expected [B, N, H, D], found none (given: query, key)",
    );
    refuse(&[], "", "linear: tensor `q`: expected [B, H, N, D], found none (given: none)");
}

#[test]
fn a_wrong_rank_or_shape_is_named_with_what_was_expected() {
    refuse(
        &[("q", &[4]), ("k", &[6, 4]), ("v", &[6, 3])],
        "",
        "linear: tensor `q`: expected [N, D] or [H, N, D] or [B, H, N, D], found rank 1 [4]",
    );
    refuse(
        &[("q", &[1, 1, 1, 6, 4]), ("k", &[6, 4]), ("v", &[6, 3])],
        "--layout bnhd",
        "linear: tensor `q`: expected [N, D] or [N, H, D] or [B, N, H, D], found rank 5 [1, 1, 1, 6, 4]",
    );
    refuse(
        &[("q", &[2, 6, 4]), ("k", &[6, 4]), ("v", &[6, 3])],
        "",
        "linear: tensor `k`: expected rank 3 [G, M, D], with the axes that `q` has, found rank 2 [6, 4]",
    );
    refuse(
        &[("q", &[2, 6, 4]), ("k", &[2, 6, 5]), ("v", &[2, 6, 3])],
        "",
        "linear: tensor `k`: expected key dim D = 4 as in q, found 5",
    );
    refuse(
        &[("q", &[2, 6, 4]), ("k", &[2, 6, 4]), ("v", &[2, 7, 3])],
        "",
        "linear: tensor `v`: expected length M = 6 as in k, found 7",
    );
}

#[test]
fn heads_that_do_not_divide_are_refused() {
    refuse(
        &[("q", &[3, 6, 4]), ("k", &[2, 6, 4]), ("v", &[2, 6, 3])],
        "",
        "linear: tensor `k`: expected key heads that divide the 3 query heads, found 2 key heads",
    );
}

#[test]
fn the_causal_form_needs_as_many_keys_as_queries() {
    let tensors: &[(&str, &[usize])] = &[("q", &[5, 4]), ("k", &[6, 4]), ("v", &[6, 3])];
    refuse(tensors, "", "linear: tensor `k`: expected M = N = 5 for the causal form, found M = 6");
    let place = Place::new();
    place.write("in.safetensors", tensors);
    place.done(&format!("{RUN} in.safetensors --no-causal"));
    assert_eq!(place.tensor("o.safetensors", "o").shape(), &[5, 3].into());
}

#[test]
fn an_axis_of_length_0_is_refused() {
    refuse(
        &[("q", &[2, 0, 4]), ("k", &[2, 0, 4]), ("v", &[2, 0, 3])],
        "",
        "linear: tensor `q`: expected axes of length 1 or more, found [2, 0, 4]",
    );
}

#[test]
fn a_head_wider_than_any_model_has_is_refused() {
    refuse(
        &[("q", &[1, 1, 2, 1025]), ("k", &[1, 1, 2, 1025]), ("v", &[1, 1, 2, 3])],
        "",
        "linear: tensor `k`: expected D of at most 1024, found 1025",
    );
}

#[test]
fn dtypes_that_cannot_be_read_are_refused() {
    let place = Place::new();
    let header = r#"{"q":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]}}"#;
    raw(&place.path("in.safetensors"), header, 4);
    let ran = place.run(&format!("{RUN} in.safetensors"));
    assert_eq!(ran.code, 1, "{ran:?}");
    for word in ["error: in.safetensors: ", "`q`", "I8", "f32"] {
        assert!(ran.err.to_lowercase().contains(&word.to_lowercase()), "{word} in {ran:?}");
    }

    let mut tensors: TensorMap = PLAIN.iter().map(|(name, shape)| ((*name).to_owned(), filled(name, shape))).collect();
    tensors.insert("k", HostTensor::zeros([1, 2, 6, 4], DType::I64));
    place.write_map("whole.safetensors", &tensors);
    let sentence = "linear: tensor `k`: expected f32, f16, bf16 or f64, found whole numbers";
    place.refuse(&format!("{RUN} whole.safetensors"), 1, sentence);
}

/// Names come from files: a terminal must not obey them, and a checkpoint has many.
#[test]
fn names_of_other_tensors_are_shortened_and_harmless() {
    let place = Place::new();
    let names = ["\u{1b}[2J\n".to_owned(), "µ".repeat(1000)].into_iter().chain((0..300).map(|i| format!("w{i}")));
    let tensors: TensorMap = names.map(|name| (name, HostTensor::f32([1], vec![0.0]))).collect();
    place.write_map("in.safetensors", &tensors);
    let own: Vec<_> = (0..14).map(|i| format!("w{i}")).collect();
    let given = format!("\u{fffd}[2J\u{fffd}, {}…, {}, and 286 more", "µ".repeat(60), own.join(", "));
    let sentence = format!("linear: tensor `q`: expected [B, H, N, D], found none (given: {given})");
    place.refuse(&format!("{RUN} in.safetensors"), 1, &sentence);
}

#[test]
fn truncated_and_hostile_files_are_refused_by_name() {
    let place = Place::new();
    place.write("whole.safetensors", PLAIN);
    let bytes = std::fs::read(place.path("whole.safetensors")).unwrap();
    for keep in [0, 7, 30, bytes.len() - 1] {
        std::fs::write(place.path("cut.safetensors"), &bytes[..keep]).unwrap();
        for command in ["run linear --backend cpu -o o.npz -i cut.safetensors", "inspect cut.safetensors"] {
            let ran = place.run(command);
            assert!(ran.code == 1 && ran.err.starts_with("error: cut.safetensors: "), "{keep}: {ran:?}");
            assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
        }
    }
    let header = r#"{"q":{"dtype":"F32","shape":[1152921504606846976,4],"data_offsets":[0,16]}}"#;
    raw(&place.path("huge.safetensors"), header, 16);
    let ran = place.run(&format!("{RUN} huge.safetensors"));
    assert!(ran.code == 1 && ran.err.contains("huge.safetensors: "), "{ran:?}");
    assert_eq!(place.names(), ["cut.safetensors", "huge.safetensors", "whole.safetensors"]);
    let ran = place.run(&format!("{RUN} nowhere.safetensors"));
    assert!(ran.code == 1 && ran.err.starts_with("error: nowhere.safetensors: "), "{ran:?}");
}

#[test]
fn an_output_that_is_an_input_is_refused_before_it_is_read() {
    let place = Place::new();
    place.write("in.safetensors", PLAIN);
    let mut spellings = vec!["in.safetensors", "./in.safetensors"];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("in.safetensors", place.path("link.safetensors")).unwrap();
        spellings.push("link.safetensors");
    }
    for output in spellings {
        let sentence = format!("linear: --output and --input cannot be the same file, {output}");
        place.refuse(&format!("run linear --backend cpu --input in.safetensors --output {output}"), 2, &sentence);
    }
    let both = "run linear --input in.safetensors --output a.safetensors --state-out ./a.safetensors";
    let sentence = "linear: --state-out and --output cannot be the same file, ./a.safetensors";
    place.refuse(both, 2, sentence);
    let state = "run linear --input in.safetensors --state-in s.npz --state-out s.npz";
    place.refuse(state, 2, "linear: --state-out and --state-in cannot be the same file, s.npz");
}

/// None of these files exists: a wrong command line is reported before files are opened.
#[test]
fn usage_is_judged_before_files() {
    let place = Place::new();
    for (flags, sentence) in [
        ("--backend cpu --adapter 0", "--adapter cannot be used with --backend cpu"),
        ("--backend cpu --force-adapter", "--force-adapter cannot be used with --backend cpu"),
        ("--backend cpu --tier portable", "--tier portable cannot be used with --backend cpu"),
        ("--scale wide", "linear: --scale: expected a finite number, found `wide`"),
        ("--scale nan", "linear: --scale: expected a finite number, found `nan`"),
        ("--seed -1", "linear: --seed: expected a whole number from 0 to 2^64 - 1, found `-1`"),
        ("--seed one", "linear: --seed: expected a whole number from 0 to 2^64 - 1, found `one`"),
        ("--scale inf", "linear: --scale: expected a finite number, found `inf`"),
        ("--segment 0", "linear: --segment: expected a whole number from 1 to 2^64 - 1, found `0`"),
        (
            "--segment 99999999999999999999",
            "linear: --segment: expected a whole number from 1 to 2^64 - 1, found `99999999999999999999`",
        ),
        ("--segment -5", "linear: --segment: expected a whole number from 1 to 2^64 - 1, found `-5`"),
        ("--norm-eps -1", "linear: --norm-eps: expected a finite number of 0 or more, found -1"),
        ("--no-normalize --norm-eps 1", "linear: --norm-eps needs the normaliser, which is off"),
        ("--decode", "linear: --decode needs --state-in or --state-out"),
        ("--no-causal --state-out s.npz", "linear: --no-causal cannot be used with --state-in or --state-out"),
        ("--no-causal --decode", "linear: --decode cannot be used with --no-causal"),
        ("--params -", "linear: only one file can be `-`, standard input"),
        ("--output - --json", "linear: --json and `--output -` cannot both write to standard output"),
        ("--output - --state-out -", "linear: only one file can be `-`, standard output"),
    ] {
        let input = if flags.contains("--params") { "-" } else { "nowhere.safetensors" };
        place.refuse(&format!("run linear --input {input} {flags}"), 2, sentence);
    }
    for (flags, sentence) in [
        ("--epsilon 0", "yat: --epsilon: expected a finite number above 0, found 0"),
        ("--epsilon -0.001", "yat: --epsilon: expected a finite number above 0, found -0.001"),
        ("--epsilon inf", "yat: --epsilon: expected a finite number, found `inf`"),
        ("--norm-eps -1", "yat: --norm-eps: expected a finite number of 0 or more, found -1"),
        (
            "--norm softmax --norm-eps 1e-6",
            "yat: --norm-eps needs the sum of the kernel, which --norm softmax does not divide by",
        ),
    ] {
        place.refuse(&format!("run yat --input nowhere.safetensors {flags}"), 2, sentence);
    }
    for (flags, sentence) in [
        (
            "--rule delta --normalize",
            "linear: --normalize cannot be used with rule delta, whose weights may sum to zero",
        ),
        ("--rule gated-delta --norm-eps 1", "linear: --norm-eps needs the normaliser, which is off"),
        (
            "--rule delta --feature-map elu1",
            "linear: --feature-map: expected identity under rule delta, which takes q and k as given, found elu1",
        ),
        ("--rule delta --no-causal", "linear: --no-causal cannot be used with rule delta, which is causal"),
    ] {
        place.refuse(&format!("run linear --input nowhere.safetensors {flags}"), 2, sentence);
    }
    let ran = place.run("run linear --input nowhere.safetensors --output o.txt");
    assert!(ran.code == 2 && ran.err.contains("o.txt") && ran.err.contains(".safetensors"), "{ran:?}");
}

#[test]
fn what_the_grammar_refuses_is_usage_too() {
    let place = Place::new();
    for (command, words) in [
        ("run linear --input x --feature-map gelu", &["gelu", "elu1, relu, identity"][..]),
        ("run linear --input x --rule lambda", &["lambda", "gated-delta"]),
        ("run linear --input x --backend cuda", &["cuda", "vulkan"]),
        ("run linear --input x --dtype f64", &["f64", "f16"]),
        ("run linear --input x --layout hbnd", &["hbnd", "bnhd"]),
        ("run linear --input x --warp 9", &["--warp"]),
        ("run linear", &["--input"]),
        ("", &["Commands", "run", "sample"]),
        ("run", &["Operators", "linear"]),
        ("race linear", &["race"]),
        ("check nonlinear", &["nonlinear", "linear"]),
        ("diff a", &["B"]),
    ] {
        let ran = place.run(command);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{command}: {ran:?}");
        assert!(words.iter().all(|word| ran.err.contains(word)), "{command}: {ran:?}");
    }
    let sentence = format!("unknown operator `linaer`; did you mean `linear`? ({})", known_operators());
    place.refuse("run linaer --input x --output y", 2, &sentence);
    place.refuse("sample linaer", 2, &sentence);
}

#[test]
fn a_failed_run_leaves_what_was_there() {
    let place = Place::new();
    place.write("in.safetensors", &PLAIN[..2]);
    std::fs::write(place.path("o.safetensors"), "precious").unwrap();
    let ran = place.run(&format!("{RUN} in.safetensors"));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(std::fs::read(place.path("o.safetensors")).unwrap(), b"precious");
    assert_eq!(place.names(), ["in.safetensors", "o.safetensors"]);

    let ran = place.run("run linear --backend cpu --input in.safetensors --output nowhere/o.safetensors");
    assert!(ran.code == 1 && ran.err.starts_with("error: nowhere/o.safetensors: "), "{ran:?}");
}

#[test]
fn values_that_are_not_finite_are_counted_and_with_strict_refused() {
    let place = Place::new();
    let mut tensors: TensorMap = PLAIN.iter().map(|(name, shape)| ((*name).to_owned(), filled(name, shape))).collect();
    let mut v = filled("v", PLAIN[2].1).to_f32();
    (v[3], v[20]) = (f32::NAN, f32::INFINITY);
    tensors.insert("v", HostTensor::f32(PLAIN[2].1, v));
    place.write_map("in.safetensors", &tensors);

    let ran = place.run(&format!("{RUN} in.safetensors"));
    let warning = "linear: tensor `v`: 2 of 36 values are not finite, the first NaN at [0, 0, 1, 0]";
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.starts_with(&format!("warning: {warning}\nwarning: linear: tensor `o`: ")), "{ran:?}");
    let ran = place.run(&format!("{RUN} in.safetensors --quiet"));
    assert_eq!((ran.code, ran.err.as_str(), ran.out.as_str()), (0, "", ""));
    let ran = place.run(&format!("{RUN} in.safetensors --quiet --json"));
    assert_eq!(json(&ran.out)["warnings"][0], warning);

    std::fs::remove_file(place.path("o.safetensors")).unwrap();
    let sentence = "linear: tensor `v`: expected finite values (--strict), found 2 of 36 that are not, the first NaN at [0, 0, 1, 0]";
    place.refuse(&format!("{RUN} in.safetensors --strict"), 1, sentence);

    tensors.insert("v", HostTensor::f32(PLAIN[2].1, vec![1e6; 36]));
    place.write_map("large.safetensors", &tensors);
    let sentence = "linear: tensor `v`: expected finite values (--strict), found 36 of 36 that are not once stored as f16, \
                    the first inf at [0, 0, 0, 0]";
    place.refuse(&format!("{RUN} large.safetensors --strict --dtype f16"), 1, sentence);
}

/// Outputs that are not finite are counted, and with --strict nothing is written.
#[test]
fn outputs_that_are_not_finite_are_counted_and_with_strict_refused() {
    let place = Place::new();
    let tensors = [("q", 300.0), ("k", 300.0), ("v", 1.0)]
        .map(|(name, x)| (name.to_owned(), half_of(&HostTensor::f32([3, 2], vec![x; 6]))));
    place.write_map("in.safetensors", &tensors.into_iter().collect());
    let flags = "--no-normalize --feature-map identity --scale 1";
    let ran = place.run(&format!("{RUN} in.safetensors --state-out s.npz {flags}"));
    let first =
        "6 of 6 values are not finite in f16, which ends at 65504 (--dtype f32 has more room), the first inf at [0, 0]";
    assert_eq!((ran.code, ran.err), (0, format!("warning: linear: tensor `o`: {first}\n")));
    place.done(&format!("{RUN} in.safetensors --strict --dtype f32 {flags}"));
    place.remove(&["o.safetensors", "s.npz"]);
    let sentence = "linear: tensor `o`: expected finite values (--strict), found 6 of 6 that are not in f16, which ends at \
                    65504 (--dtype f32 has more room), the first inf at [0, 0]";
    place.refuse(&format!("{RUN} in.safetensors --strict --state-out s.npz {flags}"), 1, sentence);
}

#[test]
fn elements_whose_features_vanish_are_refused_where_nothing_is_added_to_the_denominator() {
    let place = Place::new();
    let tensors =
        [("q", 0.0), ("k", -100.0), ("v", 1.0)].map(|(name, x)| (name.to_owned(), HostTensor::f32([3, 2], vec![x; 6])));
    place.write_map("in.safetensors", &tensors.into_iter().collect());
    let sentence = "linear: tensor `k`: expected numbers of -40 or more with elu1 and norm_eps 0, found -100, whose feature \
                    vanishes in f32";
    place.refuse(&format!("{RUN} in.safetensors --norm-eps 0"), 1, sentence);
    place.done(&format!("{RUN} in.safetensors"));
}

#[test]
fn an_adapter_that_is_not_there_is_exit_code_4() {
    let place = Place::new();
    place.write("in.safetensors", PLAIN);
    let absent = if cfg!(windows) { "metal" } else { "dx12" };
    for flags in ["--adapter no-such-adapter", "--adapter 99", &format!("--backend {absent}")] {
        let ran = place.run(&format!("run linear --input in.safetensors --output o.npz {flags}"));
        assert_eq!(ran.code, 4, "{flags}: {ran:?}");
        assert!(ran.err.starts_with("error: no ") && ran.err.contains(" found (available: "), "{ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    }
    // `all` of a backend that has no adapter is nothing to check, and no success.
    for command in ["check conv1d --quick", "bench conv1d --length 64"] {
        let ran = place.run(&format!("{command} --backend {absent} --adapter all"));
        assert_eq!((ran.code, ran.out.as_str()), (4, ""), "{command}: {ran:?}");
        assert!(ran.err.lines().last().is_some_and(|line| line.starts_with("error: no ")), "{ran:?}");
    }
    let mut command = place.command(&["run", "linear", "--input", "in.safetensors", "--output", "o.npz"]);
    let ran = Ran::of(command.env("WGPU_ADAPTER_NAME", "no-such-adapter"));
    assert_eq!(ran.code, 4, "{ran:?}");
    assert_eq!(place.names(), ["in.safetensors"]);
    // A flag takes precedence over the variables.
    let arguments = ["run", "linear", "--backend", "cpu", "--input", "in.safetensors", "--output", "o.npz"];
    let mut command = place.command(&arguments);
    let ran = Ran::of(command.env("WGPU_ADAPTER_NAME", "no-such-adapter").env("WGPU_BACKEND", "gl"));
    assert_eq!(ran.code, 0, "{ran:?}");
}
