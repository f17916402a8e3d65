//! `conv1d` and `mamba` as a user meets them: `[B, C, N]`, with the length last.

use super::*;

/// Tokens `from..to` of the last axis, of tensors that have as many as x.
fn tokens(all: &TensorMap, from: usize, to: usize) -> TensorMap {
    let length = *all.get("x").expect("x").shape().dims().last().expect("an axis");
    let cut = |(name, tensor): (&str, &HostTensor)| {
        let mut dims = tensor.shape().dims().to_vec();
        if dims.last() != Some(&length) {
            return (name.to_owned(), tensor.clone());
        }
        let values = tensor.to_f32().chunks(length).flat_map(|row| row[from..to].to_vec()).collect();
        dims.pop();
        dims.push(to - from);
        (name.to_owned(), HostTensor::f32(dims, values))
    };
    all.iter().map(cut).collect()
}

#[test]
fn a_sample_runs_and_pieces_of_it_equal_the_whole() {
    for (op, with) in [("conv1d", "bias"), ("mamba", "d,z,dt_bias")] {
        let place = Place::new();
        place.done(&format!("sample {op} -o in.npz --shape 2,5,40 --quiet"));
        place.done(&format!("run {op} --backend cpu -i in.npz --verify"));
        place.done(&format!("sample {op} -o in.npz --shape 2,5,40 --with {with} --seed 3 --quiet"));
        let run = format!("run {op} --backend cpu --quiet --segment 8 -i");
        place.done(&format!("{run} in.npz -o whole.npz --state-out end.npz --verify"));
        let (all, whole) = (place.read("in.npz").tensors, place.read("whole.npz").tensors);
        let mut state = String::new();
        for (at, pair) in [0, 8, 32, 40].windows(2).enumerate() {
            place.write_map("piece.npz", &tokens(&all, pair[0], pair[1]));
            place.done(&format!("{run} piece.npz -o p.npz --state-out s{at}.npz {state}"));
            state = format!("--state-in s{at}.npz");
            let want = [("x".to_owned(), all.get("x").expect("x").clone())].into_iter();
            let want = want.chain(whole.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone()))).collect();
            same(&place.tensor("p.npz", "y"), tokens(&want, pair[0], pair[1]).get("y").expect("y"));
        }
        same(&place.tensor("s2.npz", "state"), &place.tensor("end.npz", "state"));
        // One token more, from there.
        place.write_map("one.npz", &tokens(&all, 0, 1));
        let one = format!("run {op} --backend cpu --quiet -i one.npz --state-in end.npz");
        place.done(&format!("{one} -o a.npz --decode"));
        place.done(&format!("{one} -o b.npz --verify"));
        same(&place.tensor("a.npz", "y"), &place.tensor("b.npz", "y"));
    }
}

#[test]
fn the_batch_may_be_absent_and_groups_may_have_no_axis() {
    let place = Place::new();
    place.done("sample mamba -o in.npz --shape B=1,C=6,N=20,G=1,S=3 --with a_log,z --quiet");
    let all = place.read("in.npz").tensors;
    assert_eq!(all.names(), "x, dt, a_log, b, c, z");
    place.done("run mamba --backend cpu -i in.npz -o o.npz --verify");
    let want = place.tensor("o.npz", "y");
    let shaped = |b: &[usize], x: &[usize]| -> TensorMap {
        let one = |(name, tensor): (&str, &HostTensor)| match name {
            "b" | "c" => (name.to_owned(), tensor.clone().reshape(b)),
            "a_log" => (name.to_owned(), tensor.clone()),
            _ => (name.to_owned(), tensor.clone().reshape(x)),
        };
        all.iter().map(one).collect()
    };
    for (b, x) in [(&[1, 3, 20][..], &[1, 6, 20][..]), (&[1, 3, 20], &[6, 20]), (&[3, 20], &[6, 20])] {
        place.write_map("in.npz", &shaped(b, x));
        place.done("run mamba --backend cpu -i in.npz -o o.npz --state-out s.npz --verify");
        let got = place.tensor("o.npz", "y");
        assert_eq!(got.shape(), &x.into());
        same(&got.reshape([1, 6, 20]), &want);
        assert_eq!(place.tensor("s.npz", "state").shape(), &[1, 6, 3].into());
    }
}

#[test]
fn channels_may_be_last_and_the_weight_may_have_an_axis_more() {
    let place = Place::new();
    let run = "run conv1d --backend cpu --quiet --dilation 2 --verify -i";
    place.done("sample conv1d -o in.npz --shape 2,6,20 --with bias --quiet");
    place.done(&format!("{run} in.npz -o o.npz --state-out s.npz"));
    let all = place.read("in.npz").tensors;
    let turned = |tensor: &HostTensor| {
        let [b, rows, columns] = *tensor.shape().dims() else { panic!("three axes") };
        let (values, size) = (tensor.to_f32(), rows * columns);
        let at = |i: usize| values[i / size * size + i % rows * columns + i % size / rows];
        HostTensor::f32([b, columns, rows], (0..b * size).map(at).collect())
    };
    let mut last = all.clone();
    last.insert("x", turned(all.get("x").expect("x")));
    last.insert("weight", all.get("weight").expect("weight").clone().reshape([6, 1, 4]));
    place.write_map("last.npz", &last);
    place.done(&format!("{run} last.npz -o p.npz --layout bnc --state-out t.npz"));
    same(&turned(&place.tensor("p.npz", "y")), &place.tensor("o.npz", "y"));
    assert_eq!(place.tensor("s.npz", "state").shape(), &[2, 6, 6].into());
    same(&place.tensor("t.npz", "state"), &place.tensor("s.npz", "state"));
    assert_eq!(place.read("p.npz").metadata["layout"], "bnc");
}

#[test]
fn sequences_may_be_packed() {
    let place = Place::new();
    place.done("sample conv1d -o in.npz --shape B=1,C=6,N=20,seqs=3 --with cu_seqlens --quiet");
    let run = "run conv1d --backend cpu --quiet -i in.npz -o o.npz";
    place.done(&format!("{run} --verify --state-out s.npz"));
    assert_eq!(place.tensor("s.npz", "state").shape(), &[3, 6, 3].into());
    place.done(&format!("{run} --verify --padding same"));
    place.done(&format!("{run} --verify --state-in s.npz"));
    let mut all = place.read("in.npz").tensors;
    all.insert("cu_seqlens", HostTensor::new([3], Values::I64(vec![0, 9, 19])));
    place.write_map("in.npz", &all);
    place.refuse(run, 1, "conv1d: tensor `cu_seqlens`: expected N = 20 as its last value, found 19");
    all.insert("x", filled("x", &[2, 6, 20]));
    place.write_map("in.npz", &all);
    place.refuse(run, 1, "conv1d: tensor `x`: expected batch B = 1 with cu_seqlens, found 2");
}

#[test]
fn what_cannot_be_is_refused_in_one_sentence() {
    let place = Place::new();
    place.done("sample mamba -o good.npz --shape B=2,C=6,N=20,S=3 --quiet");
    let good = place.read("good.npz").tensors;
    let with = |name: &str, tensor: HostTensor| {
        let mut all = good.clone();
        all.insert(name, tensor);
        place.write_map("in.npz", &all);
    };
    let run = "run mamba --backend cpu -i in.npz -o o.npz";
    let mut a = good.get("a").expect("a").to_f32();
    (a[4], a[5], a[11]) = (0.0, 2.5, f32::INFINITY);
    with("a", HostTensor::f32([6, 3], a));
    let ran = place.run(run);
    let found = "expected values of 0 or less, found 2 of 18 that are not, the first 2.5 at 5";
    assert!(ran.code == 1 && ran.err.ends_with(&format!("error: mamba: tensor `a`: {found}\n")), "{ran:?}");
    with("a_log", filled("a_log", &[6, 3]));
    place.refuse(run, 1, "mamba: tensor `a`: expected none beside `a_log`, found [6, 3]");
    for name in ["b", "c"] {
        with(name, filled(name, &[2, 4, 3, 20]));
        let sentence = format!("mamba: tensor `{name}`: expected groups G that divide the 6 channels, not 4, found");
        place.refuse(run, 1, &format!("{sentence} [2, 4, 3, 20]"));
    }
    place.write_map("in.npz", &good);
    place.write("s.npz", &[("state", &[2, 6, 4])]);
    let sentence = "mamba: tensor `state`: expected f32 [2, 6, 3] in the state file, found f32 [2, 6, 4]";
    place.refuse(&format!("{run} --state-in s.npz"), 1, sentence);
    let sentence = "mamba: --no-causal: this operator has only a causal form";
    place.refuse(&format!("{run} --no-causal"), 2, sentence);

    place.write("in.npz", &[("x", &[2, 6, 20]), ("weight", &[6, 33])]);
    let run = "run conv1d --backend cpu -i in.npz -o o.npz";
    place.refuse(run, 1, "conv1d: tensor `weight`: expected a width W of 1 to 32, found 33");
    place.write("in.npz", &[("x", &[2, 6, 20]), ("weight", &[6, 4])]);
    let sentence = "conv1d: tensor `state`: expected f32 [2, 6, 3] in the state file, found f32 [2, 6, 4]";
    place.refuse(&format!("{run} --state-in s.npz"), 1, sentence);
    let same = "because outputs depend on later inputs";
    let sentence = format!("conv1d: --padding same cannot be used with --state-in or --state-out, {same}");
    place.refuse(&format!("{run} --padding same --state-in s.npz"), 2, &sentence);
    place.refuse(&format!("{run} --padding same --decode --state-out t.npz"), 2, &sentence);
    let sentence = "conv1d: tensor `state`: expected f32 [2, 6, 6] in the state file, found f32 [2, 6, 4]";
    place.refuse(&format!("{run} --dilation 2 --state-in s.npz"), 1, sentence);
    let ran = place.run(&format!("{run} --layout bnhd"));
    assert!(ran.code == 2 && ran.err.contains("[possible values: bcn, bnc]"), "{ran:?}");
    let sentence = "conv1d: tensor `x`: expected [C, N] or [B, C, N], found rank 1 [20]";
    place.write("in.npz", &[("x", &[20]), ("weight", &[6, 4])]);
    place.refuse(run, 1, sentence);
}
