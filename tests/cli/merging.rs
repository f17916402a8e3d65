//! `run --summary-out` and `merge`: pieces that ran side by side give the state of the pieces one behind the other.

use super::*;

const CUTS: [usize; 4] = [0, 11, 50, 60];

/// Rows `from..to` of the axis that runs along the sequence; a weight stays whole.
fn part(tensor: &HostTensor, axis: Option<usize>, from: usize, to: usize) -> HostTensor {
    let Some(axis) = axis else { return tensor.clone() };
    let mut dims = tensor.shape().dims().to_vec();
    let inner: usize = dims[axis + 1..].iter().product();
    let values = tensor.to_f32();
    let rows = values.chunks_exact(dims[axis] * inner).flat_map(|row| row[from * inner..to * inner].iter().copied());
    let rows: Vec<f32> = rows.collect();
    dims[axis] = to - from;
    HostTensor::f32(dims, rows).cast(tensor.dtype())
}

/// Writes the pieces of a sampled sequence as `p0.npz` and so on. Gives the arguments of a run, without a file.
fn pieces(place: &Place, op: &str, sample: &str, run: &str) -> String {
    place.done(&format!("sample {op} -o whole.npz --quiet {sample}"));
    let whole = place.read("whole.npz").tensors;
    // No other axis is as long as the sequence.
    let axis = |tensor: &HostTensor| tensor.shape().dims().iter().position(|length| *length == CUTS[3]);
    for (at, ends) in CUTS.windows(2).enumerate() {
        let cut = |(name, tensor): (&str, &HostTensor)| (name.to_owned(), part(tensor, axis(tensor), ends[0], ends[1]));
        place.write_map(&format!("p{at}.npz"), &whole.iter().map(cut).collect());
    }
    format!("run {op} --backend cpu --quiet --seed 5 {run}")
}

#[test]
fn summaries_merge_into_the_state_of_the_pieces_one_behind_the_other() {
    for (op, sample, run) in [
        ("linear", "", ""),
        ("linear", "--rule gated", "--rule gated"),
        ("linear", "--rule gated --with g.D", "--rule gated --normalize --feature-map relu"),
        ("linear", "--dtype f16", "--feature-map performer --features 8"),
        ("linear", "--rule gated", "--rule gated --feature-map performer --features 8"),
        ("linear", "", "--feature-map performer-relu --features 8"),
        ("linear", "", "--feature-map cosformer --max-len 70"),
        ("slay", "", ""),
        ("slay", "--dtype f16", "--poly exact"),
        ("ssd", "--with dt_bias,d", ""),
        ("ssd", "--with z", "--no-dt-softplus"),
        ("mamba", "--with a_log,b.C,d", "--dt-max 0.1"),
    ] {
        let place = Place::new();
        let shape = match op {
            "ssd" => "N=60,H=2,P=3,S=4",
            "mamba" => "B=2,C=6,N=60,S=4",
            _ => "B=2,H=4,G=2,N=60,D=6,E=5",
        };
        let run = pieces(&place, op, &format!("{sample} --shape {shape}"), run);
        place.done(&format!("{run} -i p1.npz --state-out before.npz"));
        for (first, start) in [("", ""), ("--state-in before.npz", "--state-in before.npz")] {
            let mut state = first.to_owned();
            for at in 0..3 {
                place.done(&format!("{run} -i p{at}.npz --state-out t{at}.npz {state}"));
                place.done(&format!("{run} -i p{at}.npz --summary-out s{at}.npz"));
                state = format!("--state-in t{at}.npz");
            }
            place.done(&format!("merge s0.npz s1.npz s2.npz {start} --state-out m.npz --quiet"));
            let (got, want) = (place.read("m.npz"), place.read("t2.npz"));
            assert_eq!(got.tensors.names(), want.tensors.names(), "{run}");
            for (name, tensor) in want.tensors.iter() {
                let merged = got.tensors.get(name).expect("a merged tensor");
                assert_eq!(merged.dtype(), tensor.dtype(), "{run}");
                if tensor.dtype() == DType::I64 { same(merged, tensor) } else { close(merged, tensor) }
            }
            assert_eq!(got.metadata, want.metadata, "{run}");
            // It is a state file.
            place.done(&format!("{run} -i p0.npz --state-in m.npz"));
        }
    }
}

#[test]
fn a_summary_describes_the_piece_alone() {
    let place = Place::new();
    let run = pieces(&place, "linear", "--shape H=2,N=60,D=6,E=5 --rule gated", "--rule gated --normalize");
    place.done(&format!("{run} -i p0.npz --state-out t.npz"));
    place.done(&format!("{run} -i p1.npz --summary-out s.npz"));
    let both = "--state-in t.npz --state-out u.npz --summary-out v.safetensors -o o.npz --verify";
    let report = json(&place.done(&format!("{run} -i p1.npz {both} --json")));
    let (alone, carried) = (place.read("s.npz").tensors, place.read("v.safetensors").tensors);
    assert_eq!(alone.names(), "state, norm, decay");
    assert_eq!(carried.names(), alone.names());
    for (name, tensor) in alone.iter() {
        same(carried.get(name).expect("the same tensors"), tensor);
    }
    assert_eq!(alone.get("decay").expect("a decay").shape(), &[1, 2, 1, 1].into());
    assert_ne!(place.tensor("u.npz", "state"), *alone.get("state").expect("a state"));
    let names = |key: &str| {
        let list = report[key].as_array().expect("a list").iter();
        list.map(|tensor| tensor["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names("state"), names("summary")),
        (vec!["state".into(), "norm".into()], vec!["state".to_owned(), "norm".to_owned(), "decay".to_owned()])
    );
    assert_eq!(report["summary"][0]["ok"], true);
    assert_eq!(report["summary"][2]["file"], "v.safetensors");
    // A summary is all that the run made.
    let report = json(&place.done(&format!("{run} -i p1.npz --summary-out w.npz --json")));
    assert_eq!(report["state"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_piece_without_a_summary_is_refused() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let run = "run linear --backend cpu -i in.npz --summary-out s.npz";
    for rule in ["delta", "gated-delta"] {
        let why = "because a delta rule changes the state that enters by a matrix";
        let sentence = format!("linear: --rule: expected linear or gated for a summary, {why}, found {rule}");
        place.refuse(&format!("{run} --rule {rule}"), 2, &sentence);
    }
    place.refuse(&format!("{run} --no-causal"), 2, "linear: --no-causal cannot be used with --summary-out");
    let same = "linear: --summary-out and --input cannot be the same file, in.npz";
    place.refuse(&run.replace("s.npz", "in.npz"), 2, same);
    let same = "linear: --summary-out and --state-out cannot be the same file, s.npz";
    place.refuse(&format!("{run} --state-out s.npz"), 2, same);
    let ran = place.run("run conv1d -i in.npz --summary-out s.npz");
    assert!(ran.code == 2 && ran.err.contains("--summary-out is a flag of linear, slay, ssd and mamba"), "{ran:?}");
}

#[test]
fn a_state_is_no_summary_and_a_summary_no_state() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let run = "run linear --backend cpu --quiet -i in.npz";
    place.done(&format!("{run} --state-out t.npz --summary-out s.npz"));
    let sentence = "s.npz: expected a state, found a summary, of which `subquad merge` makes a state";
    let refused = format!("{sentence} (--state-any takes it nevertheless)");
    place.refuse(&format!("{run} --state-in s.npz -o o.npz"), 1, &refused);
    place.refuse("merge s.npz --state-in s.npz --state-out o.npz", 1, &refused);
    let any = place.run(&format!("{} --state-in s.npz --state-any", run.replace(" --quiet", "")));
    assert!(any.code == 0 && any.err.contains(&format!("{sentence}; taken because of --state-any")), "{any:?}");

    let expected = "expected a summary that `subquad run` wrote with --summary-out, found";
    let sentence = format!("t.npz: {expected} a state (--state-out writes one; --state-in takes it)");
    place.refuse("merge t.npz --state-out o.npz", 1, &sentence);
    place.refuse("merge s.npz t.npz --state-out o.npz", 1, &sentence);
    let sentence = format!("in.npz: {expected} a file that does not say it is one");
    place.refuse("merge s.npz in.npz --state-out o.npz", 1, &sentence);
}

#[test]
fn summaries_that_do_not_belong_together_are_refused() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    place.write("wide.npz", &[("q", &[1, 2, 6, 4]), ("k", &[1, 2, 6, 4]), ("v", &[1, 2, 6, 5])]);
    let run = |input: &str, flags: &str| place.done(&format!("run {flags} --backend cpu --quiet -i {input}"));
    run("in.npz", "linear --summary-out a.npz --state-out t.npz");
    run("wide.npz", "linear --summary-out wide_s.npz");
    run("in.npz", "linear --feature-map relu --summary-out relu.npz --state-out u.npz");
    run("in.npz", "slay --summary-out slay.npz");

    let to = "--state-out o.npz";
    let sentence =
        "relu.npz: expected a summary made with feature-map elu1 as a.npz was, found one made with feature-map relu";
    place.refuse(&format!("merge a.npz relu.npz {to}"), 1, sentence);
    let sentence = "u.npz: expected a state made with feature-map elu1, found one made with feature-map relu (--state-any takes it \
                    nevertheless)";
    place.refuse(&format!("merge a.npz --state-in u.npz {to}"), 1, sentence);
    let ran = place.run(&format!("merge a.npz slay.npz {to}"));
    assert!(ran.code == 1 && ran.err.contains("made with operator linear, rule linear"), "{ran:?}");
    assert!(ran.err.contains("found one made with operator slay"), "{ran:?}");
    let sentence = "wide_s.npz: tensor `state`: expected [1, 2, 4, 3] as in a.npz, found f32 [1, 2, 4, 5]";
    place.refuse(&format!("merge a.npz wide_s.npz {to}"), 1, sentence);
    let sentence = "wide_s.npz: tensor `state`: expected [1, 2, 4, 3] as in t.npz, found f32 [1, 2, 4, 5]";
    place.refuse(&format!("merge wide_s.npz --state-in t.npz {to}"), 1, sentence);

    let whole = place.read("a.npz");
    let write = |change: &dyn Fn(&mut TensorMap)| {
        let mut tensors = whole.tensors.clone();
        change(&mut tensors);
        io::write(&place.path("b.npz"), &tensors, &whole.metadata).expect("a written file");
    };
    for (change, sentence) in [
        (
            &(|map: &mut TensorMap| drop(map.remove("norm"))) as &dyn Fn(&mut TensorMap),
            "tensor `norm`: expected [B, G, D'], found none (given: state, decay)",
        ),
        (
            &|map| drop(map.remove("decay")),
            "tensor `decay`: expected the axes of `state`, found none (given: state, norm)",
        ),
        (
            &|map| map.insert("norm", HostTensor::zeros([1, 2, 5], DType::F32)),
            "tensor `norm`: expected [1, 2, 4] as in a.npz, found f32 [1, 2, 5]",
        ),
        (
            &|map| map.insert("decay", HostTensor::zeros([1, 2, 1, 3], DType::F32)),
            "tensor `decay`: expected f32 of a shape that broadcasts to [1, 2, 4, 3] of `state` and to the others, found f32 \
             [1, 2, 1, 3]",
        ),
        (
            &|map| map.insert("state", HostTensor::zeros([1, 2, 4, 3], DType::I64)),
            "tensor `state`: expected f32 or f16, found i64 [1, 2, 4, 3]",
        ),
    ] {
        write(change);
        place.refuse(&format!("merge a.npz b.npz {to}"), 1, &format!("b.npz: {sentence}"));
    }
    write(&|map| map.insert("norm", HostTensor::zeros([1, 2, 5], DType::F32)));
    place.refuse(
        &format!("merge b.npz {to}"),
        1,
        "b.npz: tensor `norm`: expected D' = 4 as in `state`, found f32 [1, 2, 5]",
    );
    // A file that says it is the summary of something that has none.
    for (text, sentence) in [
        ("operator=conv1d", "expected a summary of linear, slay, ssd, mamba, found one of conv1d"),
        ("", "expected a summary of linear, slay, ssd, mamba, found one of "),
        ("operator=linear feature-map=sine", "expected a known feature-map, found sine"),
        ("operator=linear feature-map=cosformer max-len=0", "expected a max-len of 1 to 536870912, found 0"),
    ] {
        let metadata = [("summary".to_owned(), text.to_owned())].into_iter().collect();
        io::write(&place.path("b.npz"), &whole.tensors, &metadata).expect("a written file");
        let ran = place.run(&format!("merge b.npz {to}"));
        assert_eq!((ran.code, ran.err), (1, format!("error: b.npz: {sentence}\n")));
    }
}

#[test]
fn a_command_line_without_sense_is_refused() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    place.done("run linear --backend cpu --quiet -i in.npz --summary-out s.npz");
    for (line, sentence) in [
        ("s.npz --state-out s.npz", "merge: --state-out and SUMMARY cannot be the same file, s.npz"),
        (
            "s.npz --state-in t.npz --state-out t.npz",
            "merge: --state-out and --state-in cannot be the same file, t.npz",
        ),
        ("- - --state-out t.npz", "merge: only one file can be `-`, standard input"),
        ("s.npz --state-out - --json", "merge: --json and `--state-out -` cannot both write to standard output"),
    ] {
        place.refuse(&format!("merge {line}"), 2, sentence);
    }
    assert_eq!(place.run("merge --state-out t.npz").code, 2);
    assert_eq!(place.run("merge s.npz").code, 2);
}

#[test]
fn numbers_that_are_not_finite_are_counted_or_refused() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    place.done("run linear --backend cpu --quiet -i in.npz --summary-out s.npz");
    let mut file = place.read("s.npz");
    let mut norm = file.tensors.get("norm").expect("a norm").to_f32();
    norm[5] = f32::NAN;
    file.tensors.insert("norm", HostTensor::f32([1, 2, 4], norm));
    file.tensors.insert("decay", HostTensor::f32([1, 2, 1, 1], vec![f32::NEG_INFINITY, -1e30]));
    io::write(&place.path("b.npz"), &file.tensors, &file.metadata).expect("a written file");
    let ran = place.run("merge s.npz b.npz --state-out t.npz");
    let warned = "warning: linear: tensor `norm`: 1 of 8 values are not finite in b.npz, the first NaN at [0, 1, 1]";
    assert!(ran.code == 0 && ran.err.contains(warned) && ran.err.contains("finite in the state"), "{ran:?}");
    // A log decay of minus infinity is none of them: it clears the state.
    assert!(!ran.err.contains("`decay`"), "{ran:?}");
    same(&place.tensor("t.npz", "state"), &place.tensor("b.npz", "state"));
    let sentence = "linear: tensor `norm`: expected finite values (--strict), found 1 of 8 that are not in b.npz, the first NaN \
                    at [0, 1, 1]";
    place.refuse("merge s.npz b.npz --state-out u.npz --strict", 1, sentence);
}

#[test]
fn every_container_and_the_streams_are_read_and_written() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let run = "run linear --backend cpu --quiet -i in.npz --summary-out";
    for file in ["a.npz", "b.safetensors", "c"] {
        place.done(&format!("{run} {file}"));
    }
    let text = place.done("merge a.npz b.safetensors c --state-out m.npz");
    assert!(text.starts_with("operator   linear\nsummaries  3\nstate      f32 [1, 2, 4, 3] -> m.npz\n"), "{text}");
    let summary = std::fs::read(place.path("b.safetensors")).expect("a file");
    let mut command = place.command(&["merge", "a.npz", "-", "c", "--state-out", "-", "--quiet"]);
    let output = command.write_stdin(summary).output().expect("the command starts");
    assert!(output.status.success(), "{output:?}");
    std::fs::write(place.path("n.safetensors"), output.stdout).expect("a file");
    for name in ["state", "norm"] {
        same(&place.tensor("n.safetensors", name), &place.tensor("m.npz", name));
    }
    let report = json(&place.done("merge a.npz a.npz --state-out d --json --quiet"));
    assert_eq!((report["command"].as_str(), report["operator"].as_str()), (Some("merge"), Some("linear")));
    assert_eq!(report["summaries"], serde_json::json!(["a.npz", "a.npz"]));
    assert_eq!(report["state"][1]["name"], "norm");
    assert_eq!(place.done("merge a.npz --state-out e.npz --quiet"), "");
}
