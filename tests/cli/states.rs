//! State files: a sequence in pieces equals the sequence whole.

use super::*;

const RUN: &str = "run linear --backend cpu --quiet --input";
const WHOLE: &[(&str, &[usize])] = &[("q", &[2, 4, 90, 8]), ("k", &[2, 2, 90, 8]), ("v", &[2, 2, 90, 5])];

/// Rows of the whole sequence as a file of their own.
fn piece(place: &Place, file: &str, from: usize, to: usize) {
    let cut = WHOLE.iter().map(|(name, shape)| ((*name).to_owned(), rows(&filled(name, shape), from, to)));
    place.write_map(file, &cut.collect());
}

#[test]
fn pieces_equal_the_whole_and_bit_for_bit_on_segments() {
    let place = Place::new();
    place.write("whole.npz", WHOLE);
    for (flags, cuts, exact) in [("", [0, 17, 80, 90], false), ("--segment 16", [0, 32, 48, 90], true)] {
        place.done(&format!("{RUN} whole.npz -o o.npz --state-out end.safetensors {flags}"));
        let whole = place.tensor("o.npz", "o");
        let mut state = String::new();
        for (at, pair) in cuts.windows(2).enumerate() {
            piece(&place, "piece.npz", pair[0], pair[1]);
            place.done(&format!("{RUN} piece.npz -o p.npz --state-out s{at}.safetensors {flags} {state}"));
            state = format!("--state-in s{at}.safetensors");
            let (got, want) = (place.tensor("p.npz", "o"), rows(&whole, pair[0], pair[1]));
            if exact { same(&got, &want) } else { close(&got, &want) }
        }
        for (name, shape) in [("state", &[2, 2, 8, 5][..]), ("norm", &[2, 2, 8])] {
            let (got, want) = (place.tensor("s2.safetensors", name), place.tensor("end.safetensors", name));
            assert_eq!((got.dtype(), got.shape()), (DType::F32, &shape.into()));
            if exact { same(&got, &want) } else { close(&got, &want) }
        }
    }
}

#[test]
fn one_token_after_another_equals_the_whole() {
    let place = Place::new();
    piece(&place, "six.npz", 0, 6);
    place.done(&format!("{RUN} six.npz -o o.npz"));
    let whole = place.tensor("o.npz", "o");
    let mut state = String::new();
    for at in 0..6 {
        piece(&place, "one.npz", at, at + 1);
        place.done(&format!("{RUN} one.npz -o p.npz --decode --state-out s{at}.npz {state}"));
        state = format!("--state-in s{at}.npz");
        close(&place.tensor("p.npz", "o"), &rows(&whole, at, at + 1));
    }
    piece(&place, "two.npz", 0, 2);
    let sentence = "linear: tensor `q`: expected N = 1 to decode, found N = 2";
    place.refuse("run linear --backend cpu --input two.npz --decode --state-out t.npz", 1, sentence);
}

#[test]
fn a_state_keeps_full_rank_and_f32() {
    let place = Place::new();
    let half: TensorMap = [("q", [7, 4]), ("k", [7, 4]), ("v", [7, 3])]
        .into_iter()
        .map(|(name, shape)| (name.to_owned(), half_of(&filled(name, &shape))))
        .collect();
    place.write_map("in.npz", &half);
    place.done(&format!("{RUN} in.npz -o o.npz --state-out s.npz"));
    assert_eq!(place.tensor("o.npz", "o").dtype(), DType::F16);
    assert_eq!(place.tensor("o.npz", "o").shape(), &[7, 3].into());
    let state = place.tensor("s.npz", "state");
    assert_eq!((state.dtype(), state.shape()), (DType::F32, &[1, 1, 4, 3].into()));
    // Without --state-out the state goes nowhere.
    assert_eq!(place.read("o.npz").tensors.names(), "o");
    assert_eq!(place.read("s.npz").tensors.names(), "state, norm");
}

#[test]
fn a_state_that_lacks_a_part_or_has_another_shape_is_refused_by_name() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let run = "run linear --backend cpu --input in.npz --output o.npz --state-in s.npz";
    place.write("s.npz", &[("state", &[1, 2, 4, 3])]);
    let sentence = "linear: tensor `norm`: expected [1, 2, 4] in the state file, found none (given: state)";
    place.refuse(run, 1, sentence);
    place.write("s.npz", &[("norm", &[1, 2, 4]), ("position", &[1])]);
    let sentence =
        "linear: tensor `state`: expected [1, 2, 4, 3] in the state file, found none (given: norm, position)";
    place.refuse(run, 1, sentence);
    place.write("s.npz", &[("state", &[2, 4, 3]), ("norm", &[2, 4])]);
    let sentence = "linear: tensor `state`: expected f32 [1, 2, 4, 3] in the state file, found f32 [2, 4, 3]";
    place.refuse(run, 1, sentence);
    let whole = [("state", [1, 2, 4, 3].to_vec()), ("norm", [1, 2, 4].to_vec())];
    let whole = whole.map(|(name, shape)| (name.to_owned(), HostTensor::zeros(shape, DType::I64)));
    place.write_map("s.npz", &whole.into_iter().collect());
    let sentence = "linear: tensor `state`: expected f32 [1, 2, 4, 3] in the state file, found i64 [1, 2, 4, 3]";
    place.refuse(run, 1, sentence);
    // What the run does not need is ignored; without the normaliser that is the norm.
    place.write("s.npz", &[("state", &[1, 2, 4, 3]), ("extra", &[1])]);
    place.done(&format!("{run} --no-normalize"));
    // So is what nothing here reads, unless it is needed.
    let file = place.path("mask.safetensors");
    raw(&file, r#"{"m":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}"#, 2);
    let run_mask = run.replace("s.npz", "mask.safetensors");
    place.refuse(
        &run_mask,
        1,
        "linear: tensor `state`: expected [1, 2, 4, 3] in the state file, found none (given: m)",
    );
    raw(&file, r#"{"norm":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}"#, 2);
    let ran = place.run(&run_mask);
    assert!(ran.code == 1 && ran.err.contains("mask.safetensors: tensor `norm`: expected dtype f32"), "{ran:?}");
    // Half precision is read as well.
    let half = [("state", &[1, 2, 4, 3][..]), ("norm", &[1, 2, 4])];
    let half = half.map(|(name, shape)| (name.to_owned(), half_of(&filled(name, shape))));
    place.write_map("s.npz", &half.into_iter().collect());
    place.done(&format!("{run} --verify"));
}

/// A memory of slots, its masses and the position, in two pieces; a state of another memory is refused by its size, and then
/// nothing is written.
#[test]
fn a_memory_goes_on_from_its_file_and_one_of_another_size_is_refused() {
    let place = Place::new();
    place.done("sample ramnet --output in.safetensors --shape H=2,N=20,U*P=8,E=3 --seed 3 --quiet");
    let run = "run ramnet --backend cpu --quiet --input in.safetensors --cape 1";
    place.done(&format!("{run} --topk 3 -o a.npz --state-out s.npz"));
    let position = place.tensor("s.npz", "position");
    assert_eq!(position.values(), &Values::I64(vec![20]));
    assert_eq!(place.tensor("s.npz", "state").shape(), &[1, 2, 16, 3].into());
    assert_eq!(place.tensor("s.npz", "mass").shape(), &[1, 2, 16].into());
    place.done(&format!("{run} --topk 3 -o b.npz --state-in s.npz --state-out t.safetensors --verify"));
    assert_eq!(place.tensor("t.safetensors", "position").values(), &Values::I64(vec![40]));

    let refuse = |flags: &str, sentence: &str| {
        place.refuse(&format!("{run} -o c.npz --state-in s.npz --state-out u.npz {flags}"), 1, sentence);
        assert!(!place.path("c.npz").exists() && !place.path("u.npz").exists(), "{flags}");
    };
    let sentence = "ramnet: tensor `state`: expected f32 [1, 2, 8, 3] in the state file, found f32 [1, 2, 16, 3]";
    refuse("--choices 8 --topk 3", sentence);
    refuse("--choices 3 --topk 3", "ramnet: tensor `q`: expected a last axis U*P that is a multiple of P = 3, found 8");
    refuse("--topk 17", "ramnet: --topk: expected 1 to the 16 slots, found 17");
    let cape = run.replace("--cape 1", "--cape x");
    place.refuse(&cape, 2, "ramnet: --cape: expected none, all or heads as 0,3,5, found `x`");
    // A position before the first token, and one that is no whole number.
    let mut state = place.read("s.npz").tensors;
    state.insert("position", HostTensor::new([1], Values::I64(vec![-1])));
    place.write_map("s.npz", &state);
    refuse("", "ramnet: tensor `position`: expected a whole number of 0 or more, found -1");
    state.insert("position", HostTensor::f32([1], vec![20.0]));
    place.write_map("s.npz", &state);
    refuse("", "ramnet: tensor `position`: expected i64 [1] in the state file, found f32 [1]");
}

/// Its state is all keys and values so far and the last queries, whatever the layout of the input.
#[test]
fn multi_token_attention_goes_on_from_its_keys_values_and_last_queries() {
    let place = Place::new();
    let with = "--with kq_pre,kq_post,norm --shape H=4,G=2,N=12,D=8,E=5,cq=3,ck=5";
    let run = "run mta --backend cpu --quiet --input";
    for layout in ["bhnd", "bnhd"] {
        let cut = |tensor: &HostTensor, from, to| match layout {
            "bhnd" => rows(tensor, from, to),
            _ => swapped(&rows(&swapped(tensor), from, to)),
        };
        place.done(&format!("sample mta --output whole.safetensors --layout {layout} --quiet {with}"));
        place.done(&format!("{run} whole.safetensors --layout {layout} -o o.npz --state-out end.npz"));
        let all = place.read("whole.safetensors").tensors;
        let mut state = String::new();
        for (at, pair) in [0, 1, 3, 12].windows(2).enumerate() {
            let piece = |(name, tensor): (&str, &HostTensor)| {
                let along = ["q", "k", "v"].contains(&name);
                (name.to_owned(), if along { cut(tensor, pair[0], pair[1]) } else { tensor.clone() })
            };
            place.write_map("piece.safetensors", &all.iter().map(piece).collect());
            place.done(&format!(
                "{run} piece.safetensors --layout {layout} -o p.npz --state-out s{at}.npz --verify {state}"
            ));
            state = format!("--state-in s{at}.npz");
            close(&place.tensor("p.npz", "o"), &cut(&place.tensor("o.npz", "o"), pair[0], pair[1]));
        }
        for (name, shape) in [("k", &[1, 2, 12, 8][..]), ("v", &[1, 2, 12, 5]), ("q_tail", &[1, 4, 4, 8])] {
            let (got, want) = (place.tensor("s2.npz", name), place.tensor("end.npz", name));
            assert_eq!((got.dtype(), got.shape()), (DType::F32, &shape.into()), "{layout} {name}");
            same(&got, &want);
        }
    }
    let refuse = |state: &str, sentence: &str| {
        place.refuse(&format!("{run} piece.safetensors --layout bnhd --state-in {state}"), 1, sentence);
    };
    let end = place.read("end.npz").tensors;
    for (name, expected, left) in [("k", "[B, G, M, D]", "v, q_tail"), ("q_tail", "[1, 4, 4, 8]", "k, v")] {
        let others = end.iter().filter(|(n, _)| *n != name).map(|(n, t)| (n.to_owned(), t.clone()));
        place.write_map("less.npz", &others.collect());
        let sentence =
            format!("mta: tensor `{name}`: expected {expected} in the state file, found none (given: {left})");
        refuse("less.npz", &sentence);
    }
    let mut other = end.clone();
    other.insert("v", HostTensor::zeros([1, 2, 12, 6], DType::F32));
    place.write_map("other.npz", &other);
    refuse("other.npz", "mta: tensor `v`: expected f32 [1, 2, M, 5] in the state file, found f32 [1, 2, 12, 6]");
    place.write("longer.npz", &[("q", &[3, 4]), ("k", &[5, 4]), ("v", &[5, 4])]);
    let sentence = "mta: tensor `k`: expected length M = 3 as in q with a state file, found 5";
    place.refuse(&format!("{run} longer.npz --state-out x.npz"), 1, sentence);
}

/// A state of another rule, map, normaliser or seed has the right shape and the wrong meaning.
#[test]
fn a_state_that_something_else_made_is_refused_with_both() {
    let place = Place::new();
    place.write("in.npz", WHOLE);
    place.done(&format!("{RUN} in.npz --state-out s.npz"));
    let go_on = |flags: &str| format!("{RUN} in.npz -o p.npz --state-in s.npz {flags}");
    place.done(&go_on(""));
    place.remove(&["p.npz"]);
    let refused = |own: &str, other: &str| {
        format!("expected a state made with {own}, found one made with {other} (--state-any takes it nevertheless)")
    };
    for (flags, own, other) in [
        ("--feature-map relu", "feature-map relu", "feature-map elu1"),
        ("--no-normalize", "normalize false", "normalize true"),
    ] {
        place.refuse(&go_on(flags), 1, &format!("s.npz: {}", refused(own, other)));
    }
    place.done(&go_on("--feature-map relu --state-any"));
    let warned = place.run(&go_on("--feature-map relu --state-any").replace("--quiet", ""));
    assert!(warned.err.contains("warning: s.npz: expected a state made with feature-map relu"), "{warned:?}");

    // Features drawn from another seed, and given ones.
    let slay = "run slay --backend cpu --quiet --input in.npz -o p.npz";
    place.done(&format!("{slay} --seed 3 --state-out t.npz --save-params w.npz"));
    place.done(&format!("{slay} --seed 3 --state-in t.npz"));
    place.done(&format!("{slay} --params w.npz --state-in t.npz"));
    let ran = place.run(&format!("{slay} --seed 4 --state-in t.npz"));
    assert!(ran.code == 1 && ran.err.contains("omega ") && ran.err.contains("anchors "), "{ran:?}");
    let ran = place.run(&format!("{slay} --seed 3 --epsilon 0.1 --state-in t.npz"));
    assert!(ran.code == 1 && ran.err.contains("epsilon 0.1, found one made with epsilon 0.001 "), "{ran:?}");

    // A state of another operator, whose shape fits.
    let streams =
        [("x", &[1, 5, 2, 3][..]), ("dt", &[1, 5, 2]), ("a_log", &[2]), ("b", &[1, 5, 1, 4]), ("c", &[1, 5, 1, 4])];
    place.write("ssd.npz", &streams);
    place.done("run ssd --backend cpu --quiet --input ssd.npz --state-out u.npz");
    place.write("delta.npz", &[("q", &[2, 5, 3]), ("k", &[2, 5, 3]), ("v", &[2, 5, 4]), ("beta", &[2, 5])]);
    let own = "operator linear, rule delta, feature-map identity, normalize false";
    let sentence = format!("u.npz: {}", refused(own, "operator ssd, rule none, feature-map none, normalize none"));
    place.refuse(&format!("{RUN} delta.npz --rule delta --state-in u.npz"), 1, &sentence);
}

/// Output and state are written as one: neither, if the state cannot be.
#[test]
fn output_and_state_are_written_both_or_neither() {
    let place = Place::new();
    place.write("in.npz", WHOLE);
    std::fs::write(place.path("o.npz"), "before").unwrap();
    // A name that is too long for the file system shows only when the file gets it.
    let ran = place.run(&format!("{RUN} in.npz -o o.npz --state-out {}.npz", "x".repeat(300)));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(std::fs::read(place.path("o.npz")).unwrap(), b"before");
    assert_eq!(place.names(), ["in.npz", "o.npz"]);
    place.done(&format!("{RUN} in.npz -o o.npz --state-out s.npz"));
    assert_eq!(place.names(), ["in.npz", "o.npz", "s.npz"]);
}
