//! `--heads` and `--kv-heads`: heads in the last axis, as projections write them.

use super::*;

/// `[B, N, H, D]` as `[B, N, H*D]`.
fn joined(tensor: &HostTensor) -> HostTensor {
    let dims = tensor.shape().dims();
    let [lead @ .., heads, dim] = dims else { panic!("two axes") };
    let mut shape = lead.to_vec();
    shape.push(heads * dim);
    tensor.clone().reshape(shape.as_slice())
}

/// A sample of an operator, under bnhd in `full.safetensors` and packed in `packed.safetensors`; the names that are packed.
fn sample(place: &Place, op: &str, flags: &str, packed: &[&str]) {
    place.done(&format!("sample {op} --layout bnhd -o full.safetensors --quiet {flags}"));
    let mut map = TensorMap::new();
    for (name, tensor) in place.read("full.safetensors").tensors.iter() {
        map.insert(name, if packed.contains(&name) { joined(tensor) } else { tensor.clone() });
    }
    place.write_map("packed.safetensors", &map);
}

/// Every operator with heads: the packed form is that under bnhd with the last two axes as one.
#[test]
fn packed_heads_are_those_of_bnhd() {
    let qkv = ["q", "k", "v"];
    for (op, shape, own, kv, extra) in [
        ("softmax", "B=2,H=4,G=2,N=9,D=6,E=5", "", true, ""),
        ("yat", "H=4,G=1,N=9,D=6,E=5", "", true, ""),
        ("linear", "B=2,H=4,G=2,N=9,D=6,E=5", "", true, ""),
        ("linear", "H=4,G=2,N=9,D=6", "--rule gated", true, ""),
        ("linear", "H=4,G=2,N=9,D=6", "--rule gated --with g.D", true, "g"),
        ("linear", "B=2,H=4,G=2,N=9,D=6", "--rule gated-delta", true, ""),
        ("slay", "H=4,G=2,N=9,D=6", "", true, ""),
        ("linformer", "H=4,G=2,N=9,D=6,K=3", "--with e", true, ""),
        ("mta", "B=2,H=4,G=2,N=9,D=6", "", true, ""),
        ("ramnet", "B=2,H=4,N=9,E=6", "", false, ""),
    ] {
        let place = Place::new();
        let names: Vec<_> = qkv.into_iter().chain([extra]).collect();
        sample(&place, op, &format!("--shape {shape} {own}"), &names);
        let rule = own.split("--with").next().unwrap_or("");
        let kv = if kv { if shape.contains("G=1") { "--kv-heads 1" } else { "--kv-heads 2" } } else { "" };
        place.done(&format!("run {op} --backend cpu -i full.safetensors -o a.npz --layout bnhd {rule}"));
        let run = format!("run {op} --backend cpu -i packed.safetensors -o b.npz --heads 4 {kv} {rule} --verify");
        let ran = place.run(&run);
        assert_eq!(ran.code, 0, "{run}: {ran:?}");
        assert!(!ran.err.contains("warning"), "{run}: {ran:?}");
        same(&place.tensor("b.npz", "o"), &joined(&place.tensor("a.npz", "o")));
        let flags = &place.read("b.npz").metadata["flags"];
        assert!(flags.contains("--heads 4") && flags.contains(kv), "{flags}");
    }
}

#[test]
fn two_axes_are_one_batch_and_the_summary_says_how_they_were_read() {
    let place = Place::new();
    place.write("in.npz", &[("q", &[6, 8]), ("k", &[6, 4]), ("v", &[6, 10])]);
    let out = place.done("run softmax --backend cpu -i in.npz -o o.npz --heads 4 --kv-heads 2");
    assert!(out.contains("q f32 [6, 8] as N=6 H=4 D=2\n"), "{out}");
    assert!(out.contains("v f32 [6, 10] as M=6 G=2 E=5\n"), "{out}");
    assert_eq!(place.tensor("o.npz", "o").shape(), &[6, 20].into());
    let report = json(&place.done("run softmax --backend cpu -i in.npz --heads 4 --kv-heads 2 --json"));
    assert_eq!(report["flags"], serde_json::json!({"heads": "4", "kv-heads": "2"}));
    assert_eq!(report["inputs"][1]["axes"], serde_json::json!({"B": 1, "M": 6, "G": 2, "D": 2}));
}

/// State files keep full rank, and a sequence in pieces equals the whole.
#[test]
fn a_packed_sequence_in_pieces_is_the_whole() {
    let place = Place::new();
    for op in ["linear", "mta"] {
        let cut = |from: usize, to: usize| -> TensorMap {
            ["q", "k", "v"]
                .map(|name| {
                    let values = filled(name, &[8, 6]).to_f32()[from * 6..to * 6].to_vec();
                    (name.to_owned(), HostTensor::f32([to - from, 6], values))
                })
                .into_iter()
                .collect()
        };
        for (file, from, to) in [("whole.npz", 0, 8), ("one.npz", 0, 5), ("two.npz", 5, 8)] {
            place.write_map(file, &cut(from, to));
        }
        let run = format!("run {op} --backend cpu --heads 2");
        place.done(&format!("{run} -i whole.npz -o o.npz"));
        place.done(&format!("{run} -i one.npz -o o1.npz --state-out s.npz"));
        place.done(&format!("{run} -i two.npz -o o2.npz --state-in s.npz"));
        let name = if op == "linear" { "state" } else { "k" };
        assert_eq!(place.tensor("s.npz", name).shape().rank(), 4);
        let pieces = [place.tensor("o1.npz", "o").to_f32(), place.tensor("o2.npz", "o").to_f32()].concat();
        close(&HostTensor::f32([8, 6], pieces), &place.tensor("o.npz", "o"));
    }
}

#[test]
fn what_cannot_be_split_is_refused() {
    let place = Place::new();
    place.write("in.npz", &[("q", &[6, 8]), ("k", &[6, 6]), ("v", &[6, 6])]);
    let run = "run softmax --backend cpu -i in.npz";
    for (flags, sentence) in [
        ("--heads 3", "tensor `q`: expected a last axis of 3 heads (--heads), a multiple of 3, found [6, 8]"),
        ("--heads 4", "tensor `k`: expected a last axis of 4 heads (--kv-heads), a multiple of 4, found [6, 6]"),
        ("--heads 4 --kv-heads 2", "tensor `k`: expected key dim D = 2 as in q, found 3"),
    ] {
        place.refuse(&format!("{run} {flags}"), 1, &format!("softmax: {sentence}"));
    }
    place.write("four.npz", &[("q", &[1, 6, 2, 4]), ("k", &[1, 6, 2, 4]), ("v", &[1, 6, 2, 4])]);
    let sentence = "softmax: tensor `q`: expected [N, H*D] or [B, N, H*D], found rank 4 [1, 6, 2, 4]";
    place.refuse("run softmax --backend cpu -i four.npz --heads 2", 1, sentence);
    place.write("none.npz", &[("k", &[6, 8])]);
    let sentence = "softmax: tensor `q`: expected [B, N, H*D], found none (given: k)";
    place.refuse("run softmax --backend cpu -i none.npz --heads 2", 1, sentence);
    place.write("mixed.npz", &[("q", &[1, 6, 8]), ("k", &[6, 8]), ("v", &[6, 8])]);
    let sentence = "softmax: tensor `k`: expected rank 3 [B, M, G*D], with the axes that `q` has, found rank 2 [6, 8]";
    place.refuse("run softmax --backend cpu -i mixed.npz --heads 2", 1, sentence);
}

#[test]
fn wrong_flags_are_usage() {
    let place = Place::new();
    let layout = "--layout bhnd cannot be used with --heads, which says that tensors are [B, N, H*D]";
    for (flags, sentence) in [
        ("--heads 0", "--heads: expected a whole number from 1 to 2^64 - 1, found `0`"),
        ("--heads two", "--heads: expected a whole number from 1 to 2^64 - 1, found `two`"),
        ("--heads 4 --kv-heads -1", "--kv-heads: expected a whole number from 1 to 2^64 - 1, found `-1`"),
        ("--kv-heads 2", "--kv-heads needs --heads"),
        ("--heads 4 --kv-heads 3", "--heads: expected a multiple of --kv-heads 3, found 4"),
        ("--heads 4 --layout bhnd", layout),
    ] {
        place.refuse(&format!("run linear -i nowhere.npz {flags}"), 2, &format!("linear: {sentence}"));
    }
    for op in ["mamba", "conv1d", "ssd"] {
        let ran = place.run(&format!("run {op} -i nowhere.npz --heads 2"));
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("--heads is a flag of softmax"), "{ran:?}");
    }
    let ran = place.run("run ramnet -i nowhere.npz --heads 2 --kv-heads 1");
    assert!(ran.code == 2 && ran.err.contains("--kv-heads is a flag of softmax"), "{ran:?}");
}
