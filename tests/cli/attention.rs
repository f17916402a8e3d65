//! What models ask of attention beside q, k and v: masks, biases, sinks, key counts, caches, packed sequences.

use super::*;

const CPU: &str = "--backend cpu --quiet --output o.npz --input in.npz";

/// q of 5 queries, k and v of 7 keys: 2 batch entries, 4 query heads, 2 key heads.
const CROSS: &[(&str, &[usize])] = &[("q", &[2, 4, 5, 8]), ("k", &[2, 2, 7, 8]), ("v", &[2, 2, 7, 3])];

fn tensors(shapes: &[(&str, &[usize])]) -> TensorMap {
    shapes.iter().map(|(name, shape)| ((*name).to_owned(), filled(name, shape))).collect()
}

fn whole(values: &[i64]) -> HostTensor {
    HostTensor::new([values.len()], Values::I64(values.to_vec()))
}

/// Runs softmax on CROSS with one more tensor, which must be refused with this sentence.
#[track_caller]
fn refused(name: &str, tensor: HostTensor, flags: &str, code: i32, sentence: &str) {
    let place = Place::new();
    let mut all = tensors(CROSS);
    all.insert(name, tensor);
    place.write_map("in.npz", &all);
    place.refuse(&format!("run softmax {CPU} {flags}"), code, &format!("softmax: {sentence}"));
}

#[test]
fn tensors_of_other_shapes_and_kinds_are_refused() {
    let zeros = |shape: &[usize]| HostTensor::zeros(shape, DType::F32);
    let found = |expected: &str, found: &str| format!("expected {expected}, found {found}");
    for shape in [[1, 1, 5, 6], [1, 1, 7, 5], [3, 1, 5, 7], [2, 2, 5, 7]] {
        let text = found("[1 or 2, 1 or 4, 5, 7]", &Shape::from(&shape[..]).to_string());
        refused("bias", zeros(&shape), "", 1, &format!("tensor `bias`: {text}"));
        refused("mask", HostTensor::zeros(shape, DType::U8), "", 1, &format!("tensor `mask`: {text}"));
    }
    let rank = found("rank 4 [1|B, 1|H, N, M]", "rank 2 [5, 7]");
    refused("mask", HostTensor::zeros([5, 7], DType::U8), "", 1, &format!("tensor `mask`: {rank}"));
    refused("mask", zeros(&[1, 1, 5, 7]), "", 1, "tensor `mask`: expected bool or u8, found f32");
    let bytes = HostTensor::zeros([1, 1, 5, 7], DType::U8);
    refused("bias", bytes, "", 1, "tensor `bias`: expected f32, f16, bf16 or f64, found u8");
    refused("sink", zeros(&[2]), "", 1, "tensor `sink`: expected [4], found [2]");
    refused("lengths", zeros(&[2]), "", 1, "tensor `lengths`: expected i64, i32 or u32, found f32");
    refused("lengths", whole(&[7]), "", 1, "tensor `lengths`: expected [2], found [1]");
    refused("lengths", whole(&[3, 8]), "", 1, "tensor `lengths`: expected at most M = 7 keys, found 8 at 1");
    let negative =
        "tensor `lengths`: expected whole numbers from 0 to 4294967295, found 1 of 2 that are not, the first -1";
    refused("lengths", whole(&[3, -1]), "", 1, negative);
    refused("cu_seqlens", whole(&[0, 7]), "", 1, "tensor `q`: expected batch B = 1 with cu_seqlens, found 2");
}

#[test]
fn settings_that_contradict_each_other_are_usage_errors() {
    let sink = || HostTensor::zeros([4], DType::F32);
    for (flags, sentence) in [
        ("--softcap 0", "--softcap: expected a finite number above 0, found 0"),
        ("--softcap -2", "--softcap: expected a finite number above 0, found -2"),
        ("--softcap inf", "--softcap: expected a finite number, found `inf`"),
        ("--align start --no-causal", "--align start needs the causal form: without it every query sees every key"),
        (
            "--align start --state-out s.npz",
            "--align start cannot be used with --state-in or --state-out, whose keys come before the queries",
        ),
        ("--no-causal --state-out s.npz", "--no-causal cannot be used with --state-in or --state-out"),
        ("--window 3 --no-causal", "--window needs the causal form"),
        ("--lse-out o.npz", "--lse-out and --output cannot be the same file, o.npz"),
    ] {
        refused("sink", sink(), flags, 2, sentence);
    }
}

#[test]
fn a_cache_takes_no_packed_sequences() {
    let place = Place::new();
    let mut all = tensors(PLAIN);
    all.insert("cu_seqlens", whole(&[0, 2, 6]));
    place.write_map("in.npz", &all);
    for op in ["softmax", "yat"] {
        let sentence = format!(
            "{op}: tensor `cu_seqlens`: expected none with a state file, whose keys and values belong to one sequence, found [3]"
        );
        place.refuse(&format!("run {op} {CPU} --state-out s.npz"), 1, &sentence);
    }
    all.insert("lengths", whole(&[6]));
    place.write_map("in.npz", &all);
    let sentence = "yat: tensor `cu_seqlens`: expected none with lengths, which are those of batch entries, found [3]";
    place.refuse(&format!("run yat {CPU}"), 1, sentence);
}

#[test]
fn minus_infinity_in_a_bias_is_a_mask() {
    let place = Place::new();
    let hidden = |i: usize, j: usize| (i + 2 * j).is_multiple_of(5) || i == 3;
    let pairs = || (0..5).flat_map(|i| (0..7).map(move |j| hidden(i, j)));
    let mut all = tensors(CROSS);
    let bias = pairs().map(|hidden| if hidden { f32::NEG_INFINITY } else { 0.0 }).collect();
    all.insert("bias", HostTensor::f32([1, 1, 5, 7], bias));
    place.write_map("in.npz", &all);
    let ran = place.run(&format!("run softmax {CPU} --strict --lse-out l.npz --verify"));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let [o, lse] = [place.tensor("o.npz", "o"), place.tensor("l.npz", "lse")];
    all.remove("bias");
    all.insert("mask", HostTensor::new([1, 1, 5, 7], Values::U8(pairs().map(|hidden| u8::from(!hidden)).collect())));
    place.write_map("in.npz", &all);
    place.done(&format!("run softmax {CPU} --strict --lse-out l.npz"));
    same(&place.tensor("o.npz", "o"), &o);
    same(&place.tensor("l.npz", "lse"), &lse);
    assert_eq!(lse.shape(), &[2, 4, 5].into());
    assert_eq!(lse.to_f32().iter().filter(|x| **x == f32::NEG_INFINITY).count(), 8, "a row of each head");
    // The logarithms go only to their own file.
    assert_eq!(place.read("o.npz").tensors.names(), "o");
}

#[test]
fn masks_and_biases_lack_the_axes_that_q_lacks() {
    let place = Place::new();
    let full = [
        ("q", filled("q", &[1, 4, 5, 8])),
        ("k", filled("k", &[1, 4, 7, 8])),
        ("v", filled("v", &[1, 4, 7, 3])),
        ("bias", filled("bias", &[1, 4, 5, 7])),
        ("mask", filled("mask", &[1, 1, 5, 7]).cast(DType::U8)),
    ];
    let run = |tensors: TensorMap, flags: &str| {
        place.write_map("in.npz", &tensors);
        place.done(&format!("run softmax {CPU} --lse-out l.npz {flags}"));
        (place.tensor("o.npz", "o"), place.tensor("l.npz", "lse"))
    };
    let map = |one: &dyn Fn(&str, &HostTensor) -> HostTensor| -> TensorMap {
        full.iter().map(|(name, tensor)| ((*name).to_owned(), one(name, tensor))).collect()
    };
    let (o, lse) = run(map(&|_, tensor| tensor.clone()), "");
    let without_batch = |tensor: &HostTensor| tensor.clone().reshape(&tensor.shape().dims()[1..]);
    let (three, lse3) = run(map(&|_, tensor| without_batch(tensor)), "");
    assert_eq!((three.shape(), lse3.shape()), (&[4, 5, 3].into(), &[4, 5].into()));
    assert_eq!((three.bytes(), lse3.bytes()), (o.bytes(), lse.bytes()));
    // Under bnhd only q, k, v and o have another order of axes.
    let turned = map(&|name, tensor| if name.len() == 1 { swapped(tensor) } else { tensor.clone() });
    let (bnhd, lse_bnhd) = run(turned.clone(), "--layout bnhd");
    same(&swapped(&bnhd), &o);
    same(&lse_bnhd, &lse);
    // Heads in the last axis.
    let packed = |name: &str, tensor: &HostTensor| {
        let d = tensor.shape().dims();
        if name.len() == 1 { tensor.clone().reshape([d[0], d[1], d[2] * d[3]]) } else { tensor.clone() }
    };
    let packed: TensorMap = turned.iter().map(|(name, tensor)| (name.to_owned(), packed(name, tensor))).collect();
    let (joined, lse_packed) = run(packed, "--heads 4");
    assert_eq!(joined.bytes(), bnhd.bytes());
    same(&lse_packed, &lse);
    // One head alone.
    let one = |tensor: &HostTensor| {
        let d = tensor.shape().dims();
        let size = d[2] * d[3];
        HostTensor::f32([d[2], d[3]], tensor.to_f32()[..size].to_vec()).cast(tensor.dtype())
    };
    let (two, lse2) = run(map(&|_, tensor| one(tensor)), "");
    assert_eq!((two.shape(), lse2.shape()), (&[5, 3].into(), &[5].into()));
    assert_eq!(two.to_f32(), o.to_f32()[..15]);
}

#[test]
fn pieces_with_a_cache_equal_the_whole() {
    let place = Place::new();
    let shapes: &[(&str, &[usize])] = &[("q", &[2, 4, 90, 8]), ("k", &[2, 2, 90, 8]), ("v", &[2, 2, 90, 5])];
    for (op, flags) in [("softmax", "--window 40"), ("softmax", "--softcap 2"), ("yat", "--kernel euclidean")] {
        place.write("in.npz", shapes);
        place.done(&format!("run {op} {CPU} {flags} --state-out end.npz"));
        let whole = place.tensor("o.npz", "o");
        let mut state = String::new();
        for (at, pair) in [0, 17, 18, 80, 90].windows(2).enumerate() {
            let cut =
                shapes.iter().map(|(name, shape)| ((*name).to_owned(), rows(&filled(name, shape), pair[0], pair[1])));
            place.write_map("in.npz", &cut.collect());
            place.done(&format!("run {op} {CPU} {flags} --state-out s{at}.npz {state} --verify"));
            close(&place.tensor("o.npz", "o"), &rows(&whole, pair[0], pair[1]));
            state = format!("--state-in s{at}.npz");
        }
        for name in ["k", "v"] {
            same(&place.tensor("s3.npz", name), &place.tensor("end.npz", name));
        }
        place.remove(&["s0.npz", "s1.npz", "s2.npz", "s3.npz", "end.npz"]);
    }
    // Of another number of tokens than there are queries; of other heads.
    place.write("in.npz", CROSS);
    let sentence = "softmax: tensor `k`: expected length M = 5 as in q with a state file, found 7";
    place.refuse(&format!("run softmax {CPU} --state-out s.npz"), 1, sentence);
    place.write("in.npz", &[("q", &[2, 4, 5, 8]), ("k", &[2, 2, 5, 8]), ("v", &[2, 2, 5, 3])]);
    place.write("s.npz", &[("k", &[2, 4, 9, 8]), ("v", &[2, 4, 9, 3])]);
    let sentence = "softmax: tensor `k`: expected f32 [2, 2, M, 8] in the state file, found f32 [2, 4, 9, 8]";
    place.refuse(&format!("run softmax {CPU} --state-in s.npz"), 1, sentence);
}

#[test]
fn packed_sequences_are_what_each_is_alone() {
    let place = Place::new();
    let shapes: &[(&str, &[usize])] = &[("q", &[1, 4, 20, 8]), ("k", &[1, 2, 20, 8]), ("v", &[1, 2, 20, 5])];
    for (op, flags) in [("softmax", ""), ("softmax", "--no-causal"), ("softmax", "--window 3"), ("yat", "--no-causal")]
    {
        let mut all = tensors(shapes);
        all.insert("cu_seqlens", whole(&[0, 7, 7, 8, 20]));
        place.write_map("in.npz", &all);
        place.done(&format!("run {op} {CPU} {flags} --verify"));
        let packed = place.tensor("o.npz", "o");
        for (from, to) in [(0, 7), (7, 8), (8, 20)] {
            let cut = shapes.iter().map(|(name, shape)| ((*name).to_owned(), rows(&filled(name, shape), from, to)));
            place.write_map("in.npz", &cut.collect());
            place.done(&format!("run {op} {CPU} {flags}"));
            close(&rows(&packed, from, to), &place.tensor("o.npz", "o"));
        }
    }
}

#[test]
fn a_projection_may_be_longer_than_the_keys() {
    let place = Place::new();
    let mut all = tensors(CROSS);
    let long = filled("e", &[4, 3, 10]);
    let short: Vec<f32> = long.to_f32().chunks_exact(10).flat_map(|row| row[..7].to_vec()).collect();
    all.insert("e", HostTensor::f32([4, 3, 7], short));
    place.write_map("in.npz", &all);
    place.done(&format!("run linformer {CPU}"));
    let want = place.tensor("o.npz", "o");
    all.insert("e", long);
    place.write_map("in.npz", &all);
    let ran = place.run(&format!("run linformer {} --verify", CPU.replace("--quiet ", "")));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("e: the first 7 of 10 columns are used, as many as k has tokens\n"), "{ran:?}");
    same(&place.tensor("o.npz", "o"), &want);
    all.insert("e", filled("e", &[1, 3, 6]));
    place.write_map("in.npz", &all);
    let sentence = "linformer: tensor `e`: expected length M = 7 as in k, or longer, found [1, 3, 6]";
    place.refuse(&format!("run linformer {CPU}"), 1, sentence);
}
