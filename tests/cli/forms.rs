//! Forms in which models ask for a recurrence, through files and flags: what `sample` writes runs, and what contradicts is
//! refused in one sentence.

use super::*;

const CPU: &str = "--backend cpu --input in.safetensors";

/// Samples of every form run and pass `--verify`.
#[test]
fn samples_of_every_form_run() {
    let place = Place::new();
    for (op, sample, run) in [
        ("linear", "--with cu_seqlens --shape H=4,G=2,N=40,D=6,seqs=7", "--state-out s.safetensors"),
        ("linear", "--with cu_seqlens,g --rule gated --shape N=40,D=6 --layout bnhd", "--rule gated --layout bnhd"),
        ("linear", "--shape N=40,D=6", "--direction both"),
        ("linear", "--shape N=40,D=6 --rule delta", "--rule delta --direction backward --l2norm --beta-sigmoid"),
        ("linear", "--shape H=2,V=6,N=40,D=6 --rule gated-delta --with a,a_log,dt_bias", "--rule gated-delta"),
        ("linear", "--shape H=2,V=6,N=40,D=6 --rule gated --with g.G", "--rule gated"),
        ("linear", "--shape H=2,N=40,D=6 --rule delta --with beta.N --dtype f16", "--rule delta"),
        ("linear", "--shape H=2,N=9,D=300", "--state-out s.safetensors --state-layout ed"),
        ("slay", "--with cu_seqlens --shape H=2,V=4,N=40,D=6,seqs=50", "--direction both"),
        ("ssd", "--with d.P,cu_seqlens --shape H=2,N=40,P=3,S=4", "--dt-min 0.01 --dt-max 0.5 --dt-offset 0.01"),
        ("ssd", "--with a_log --shape H=2,N=40,P=3,S=4", "--state-layout ed --state-out s.safetensors"),
    ] {
        place.done(&format!("sample {op} --output in.safetensors {sample}"));
        place.done(&format!("run {op} {CPU} {run} --output o.safetensors --verify"));
    }
}

#[test]
fn a_state_file_has_one_state_per_packed_sequence() {
    let place = Place::new();
    place.done("sample linear --output in.safetensors --with cu_seqlens --shape H=2,N=40,D=6,E=5,seqs=7");
    let map = "--feature-map cosformer --max-len 100";
    place.done(&format!("run linear {CPU} {map} --state-out s.safetensors"));
    for (name, shape) in [("state", &[7, 2, 12, 5][..]), ("norm", &[7, 2, 12]), ("position", &[7])] {
        assert_eq!(place.tensor("s.safetensors", name).shape(), &shape.into());
    }
    let Values::I64(borders) = place.tensor("in.safetensors", "cu_seqlens").values().clone() else { panic!() };
    let Values::I64(positions) = place.tensor("s.safetensors", "position").values().clone() else { panic!() };
    assert_eq!(borders.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>(), positions);
    place.done(&format!("run linear {CPU} {map} --state-in s.safetensors --state-out t.safetensors --verify"));
}

#[test]
fn a_state_of_another_layout_is_refused_with_both() {
    let place = Place::new();
    place.done("sample linear --output in.safetensors --shape H=2,N=10,D=6");
    place.done(&format!("run linear {CPU} --state-out de.safetensors"));
    place.done(&format!("run linear {CPU} --state-out ed.safetensors --state-layout ed"));
    for (state, flags, own, other) in [("de", "--state-layout ed", "ed", "none"), ("ed", "", "none", "ed")] {
        let sentence = format!(
            "{state}.safetensors: expected a state made with state-layout {own}, found one made with state-layout {other} \
             (--state-any takes it nevertheless)"
        );
        place.refuse(&format!("run linear {CPU} --state-in {state}.safetensors {flags}"), 1, &sentence);
    }
    place.done(&format!("run linear {CPU} --state-in ed.safetensors --state-layout ed --verify"));
}

#[track_caller]
fn refuse(op: &str, tensors: &[(&str, &[usize])], flags: &str, sentence: &str) {
    let place = Place::new();
    place.write("in.safetensors", tensors);
    place.refuse(&format!("run {op} {CPU} {flags}"), 1, &format!("{op}: tensor {sentence}"));
}

/// A file of q, k, v for 6 tokens and these borders.
fn bordered(place: &Place, batch: usize, borders: &[i64]) {
    let mut tensors = TensorMap::new();
    for name in ["q", "k", "v"] {
        tensors.insert(name, filled(name, &[batch, 2, 6, 4]));
    }
    tensors.insert("cu_seqlens", HostTensor::new([borders.len()], Values::I64(borders.to_vec())));
    place.write_map("in.safetensors", &tensors);
}

#[test]
fn borders_are_whole_numbers_from_0_to_n_that_do_not_decrease() {
    let place = Place::new();
    let refused = |batch: usize, borders: &[i64], flags: &str, code: i32, sentence: &str| {
        bordered(&place, batch, borders);
        place.refuse(&format!("run linear {CPU} {flags}"), code, &format!("linear: {sentence}"));
    };
    let tensor = |sentence: &str| format!("tensor `cu_seqlens`: {sentence}");
    for (borders, sentence) in [
        (&[1, 6][..], "expected 0 as its first value, found 1"),
        (&[0, 5], "expected N = 6 as its last value, found 5"),
        (&[0, 7], "expected N = 6 as its last value, found 7"),
        (&[0, 4, 2, 6], "expected values that do not decrease, found 2 after 4 at 2"),
        (&[0, -1, 6], "expected whole numbers from 0 to 4294967295, found 1 of 3 that are not, the first -1"),
        (&[0, 1 << 32], "expected whole numbers from 0 to 4294967295, found 1 of 2 that are not, the first 4294967296"),
        (&[0], "expected [S+1], the borders of one sequence or more, found [1]"),
    ] {
        refused(1, borders, "", 1, &tensor(sentence));
    }
    refused(2, &[0, 6], "", 1, "tensor `q`: expected batch B = 1 with cu_seqlens, found 2");
    refused(1, &[0, 6], "--no-causal", 1, &tensor("expected none in the non-causal form, found [2]"));
    bordered(&place, 1, &[0, 0, 6, 6]);
    place.done(&format!("run linear {CPU} --verify"));
    // Operators that do not take it refuse it by name.
    let sentence = "linformer: tensor `cu_seqlens`: would change the result, and linformer does not read it; remove it from \
                    the file, or rename it if it is something else";
    place.refuse(&format!("run linformer {CPU}"), 1, sentence);
    let other = HostTensor::f32([2], vec![0.0, 6.0]);
    let mut tensors = place.read("in.safetensors").tensors;
    tensors.insert("cu_seqlens", other);
    place.write_map("in.safetensors", &tensors);
    let sentence = "linear: tensor `cu_seqlens`: expected i64, i32 or u32, found f32";
    place.refuse(&format!("run linear {CPU}"), 1, sentence);
    tensors.insert("cu_seqlens", HostTensor::new([1, 2], Values::I64(vec![0, 6])));
    place.write_map("in.safetensors", &tensors);
    let sentence = "linear: tensor `cu_seqlens`: expected rank 1 [seqs+1], found rank 2 [1, 2]";
    place.refuse(&format!("run linear {CPU}"), 1, sentence);
}

#[test]
fn packed_sequences_are_not_decoded() {
    let place = Place::new();
    let mut tensors = TensorMap::new();
    ["q", "k", "v"].into_iter().for_each(|name| tensors.insert(name, filled(name, &[1, 4])));
    tensors.insert("cu_seqlens", HostTensor::new([2], Values::I64(vec![0, 1])));
    place.write_map("in.safetensors", &tensors);
    let sentence = "linear: tensor `cu_seqlens`: expected none with decode, found [2]";
    place.refuse(&format!("run linear {CPU} --decode --state-out s.npz"), 1, sentence);
}

/// None of these files exists: a wrong command line is reported before files are opened.
#[test]
fn flags_that_contradict_are_judged_before_files() {
    let place = Place::new();
    for (flags, sentence) in [
        ("linear --direction both --state-in s.npz", "--direction both cannot be used with --state-in or --state-out"),
        (
            "slay --direction backward --state-out s.npz",
            "--direction backward cannot be used with --state-in or --state-out",
        ),
        ("linear --direction backward --no-causal", "--direction backward needs the causal form"),
        ("linear --beta-sigmoid", "--beta-sigmoid needs rule delta or gated-delta, which read beta"),
        ("linear --rule gated --beta-sigmoid", "--beta-sigmoid needs rule delta or gated-delta, which read beta"),
        ("ssd --dt-min 2 --dt-max 1", "--dt-min: expected at most dt_max, 1, found 2"),
        ("ssd --dt-max -1", "--dt-max: expected a finite number of 0 or more, found -1"),
        ("ssd --dt-min inf", "--dt-min: expected a finite number, found `inf`"),
        ("ssd --dt-offset nan", "--dt-offset: expected a finite number, found `nan`"),
        ("ssd --dt-offset -0.5", "--dt-offset: expected a finite number of 0 or more, found -0.5"),
    ] {
        let op = flags.split(' ').next().unwrap();
        place.refuse(&format!("run {flags} --input nowhere.safetensors"), 2, &format!("{op}: {sentence}"));
    }
    for flags in ["conv1d --dt-min 1", "conv1d --direction both", "slay --state-layout ed", "linear --direction up"] {
        assert_eq!(place.run(&format!("run {flags} --input nowhere.safetensors")).code, 2, "{flags}");
    }
}

#[test]
fn heads_of_values_are_a_multiple_or_those_of_keys() {
    let of = |q: usize, k: usize, v: usize| {
        [("q", [1, q, 6, 4]), ("k", [1, k, 6, 4]), ("v", [1, v, 6, 3])].map(|(name, shape)| (name, shape.to_vec()))
    };
    for (op, heads, sentence) in [
        ("linear", (2, 2, 3), "`v`: expected heads G = 2 as in k or a multiple of it, found 3"),
        ("linear", (4, 2, 4), "`v`: expected heads G = 2 as in k, since q has other heads than k, found 4"),
        ("slay", (4, 2, 8), "`v`: expected heads G = 2 as in k, since q has other heads than k, found 8"),
        ("softmax", (2, 2, 4), "`v`: expected heads G = 2 as in k, found 4"),
    ] {
        let tensors = of(heads.0, heads.1, heads.2);
        let tensors: Vec<_> = tensors.iter().map(|(name, shape)| (*name, &shape[..])).collect();
        refuse(op, &tensors, "", sentence);
    }
    // Omega belongs to the heads of k.
    let mut tensors: Vec<(&str, &[usize])> = vec![("q", &[1, 2, 6, 4]), ("k", &[1, 2, 6, 4]), ("v", &[1, 4, 6, 3])];
    tensors.push(("omega", &[4, 8, 4]));
    let sentence = "`omega`: expected G = 2 key heads as in k, found [4, 8, 4]";
    refuse("linear", &tensors, "--feature-map performer", sentence);
}

#[test]
fn gates_are_given_in_one_form() {
    let qkv: [(&str, &[usize]); 3] = [("q", &[1, 2, 6, 4]), ("k", &[1, 2, 6, 4]), ("v", &[1, 2, 6, 3])];
    let a: (&str, &[usize]) = ("a", &[1, 2, 6]);
    for (more, rule, sentence) in [
        (
            &[a, ("g", &[1, 2, 6][..])][..],
            "gated",
            "`g`: expected none beside `a`, which takes its place, found [1, 2, 6]",
        ),
        (&[a], "gated", "`a_log`: expected [G], found none (given: q, k, v, a)"),
        (&[("g", &[1, 2, 6]), ("a_log", &[2])], "gated", "`a_log`: expected none without `a`, found [2]"),
        (&[("g", &[1, 2, 6]), ("dt_bias", &[2])], "gated", "`dt_bias`: expected none without `a`, found [2]"),
        (&[a], "linear", "`a`: expected none under --rule linear, found [1, 2, 6]"),
        (&[("a_log", &[2])], "linear", "`a_log`: expected none under --rule linear, found [2]"),
        (&[a, ("a_log", &[3])], "gated", "`a_log`: expected [2] as k has, found [3]"),
        (&[("a", &[1, 2, 5]), ("a_log", &[2])], "gated", "`a`: expected [1, 2, 6] as k has, found [1, 2, 5]"),
        (&[("g", &[3])], "gated", "`g`: expected [2] as k has, found [3]"),
        (
            &[],
            "gated",
            "`g`: expected [B, G, N] or [B, G, N, D] or [G], or `a` in its place, found none (given: q, k, v)",
        ),
        (&[("beta", &[1, 1, 5])], "delta", "`beta`: expected [1, 2, 6] as k has, found [1, 1, 5]"),
    ] {
        let tensors: Vec<_> = qkv.iter().chain(more).copied().collect();
        refuse("linear", &tensors, &format!("--rule {rule}"), sentence);
    }
}

#[test]
fn a_rate_above_zero_is_refused_and_zero_is_not() {
    let place = Place::new();
    place.done("sample ssd --output in.safetensors --shape H=2,N=9,P=3,S=4");
    let mut tensors = place.read("in.safetensors").tensors;
    tensors.insert("a", HostTensor::f32([2], vec![0.0, -1.0]));
    place.write_map("in.safetensors", &tensors);
    place.done(&format!("run ssd {CPU} --verify --strict"));
    tensors.insert("a", HostTensor::f32([2], vec![0.0, 0.5]));
    place.write_map("in.safetensors", &tensors);
    let sentence = "ssd: tensor `a`: expected values of 0 or less, found 1 of 2 that are not, the first 0.5 at 1";
    place.refuse(&format!("run ssd {CPU}"), 1, sentence);
    tensors.remove("a");
    tensors.insert("a_log", HostTensor::f32([2], vec![f32::NEG_INFINITY, 0.5]));
    place.write_map("in.safetensors", &tensors);
    place.done(&format!("run ssd {CPU} --verify --strict"));
}
