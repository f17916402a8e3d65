//! Operators beyond `linear` as a user meets them: parameters given, drawn, saved and taken again; windows and ranks that
//! cannot be.

use super::*;

const LOW: &str = "run linformer --backend cpu --output o.safetensors --input in.safetensors";
const EXACT: &str = "run softmax --backend cpu --output o.safetensors --input in.safetensors";

fn place() -> Place {
    let place = Place::new();
    place.write("in.safetensors", &[("q", &[2, 4, 30, 8]), ("k", &[2, 2, 40, 8]), ("v", &[2, 2, 40, 6])]);
    place
}

#[test]
fn what_is_drawn_is_saved_and_gives_the_same_again() {
    let place = place();
    let ran = place.run(&format!("{LOW} --rank 10 --seed 5 --save-params e.npz --verify"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("drawn from seed 5: e [1, 10, 40]"), "{ran:?}");
    assert_eq!(json(&place.done(&format!("{LOW} --rank 10 --seed 5 --json")))["drawn"], serde_json::json!(["e"]));
    let drawn = place.read("e.npz");
    assert_eq!(drawn.tensors.names(), "e");
    assert_eq!(place.read("o.safetensors").metadata["seed"], "5");
    let first = place.tensor("o.safetensors", "o");
    // From the second file, with the rank it has; and drawn again.
    let ran = place.run(&format!("{LOW} --params e.npz --save-params again.npz"));
    assert!(ran.err.contains("again.npz is not written: linformer drew no parameters"), "{ran:?}");
    assert!(!place.path("again.npz").exists());
    same(&place.tensor("o.safetensors", "o"), &first);
    place.done(&format!("{LOW} --rank 10 --seed 5"));
    same(&place.tensor("o.safetensors", "o"), &first);
    place.done(&format!("{LOW} --rank 10 --seed 6"));
    assert_ne!(place.tensor("o.safetensors", "o").bytes(), first.bytes());
}

#[test]
fn a_tensor_in_the_input_comes_before_one_in_the_params() {
    let place = place();
    place.write("e.safetensors", &[("e", &[1, 10, 40])]);
    place.write("other.safetensors", &[("e", &[4, 7, 40]), ("f", &[1, 7, 40])]);
    place.done(&format!("{LOW} --params other.safetensors --verify"));
    place.write(
        "in.safetensors",
        &[("q", &[2, 4, 30, 8]), ("k", &[2, 2, 40, 8]), ("v", &[2, 2, 40, 6]), ("e", &[1, 10, 40])],
    );
    let sentence = "linformer: tensor `f`: expected rank K = 10 as in e, found [1, 7, 40]";
    let before = place.tensor("o.safetensors", "o");
    let ran = place.run(&format!("{LOW} --params other.safetensors"));
    assert_eq!((ran.code, ran.err.as_str()), (1, format!("error: {sentence}\n").as_str()));
    same(&place.tensor("o.safetensors", "o"), &before);
}

#[test]
fn ranks_two_and_three_and_both_layouts_take_projections() {
    let place = Place::new();
    place.write("in.safetensors", &[("q", &[30, 8]), ("k", &[40, 8]), ("v", &[40, 6]), ("e", &[1, 10, 40])]);
    place.done(&format!("{LOW} --verify"));
    assert_eq!(place.tensor("o.safetensors", "o").shape(), &[30, 6].into());
    place.write("in.safetensors", &[("q", &[30, 4, 8]), ("k", &[40, 2, 8]), ("v", &[40, 2, 6]), ("e", &[4, 10, 40])]);
    place.done(&format!("{LOW} --verify --layout bnhd"));
    assert_eq!(place.tensor("o.safetensors", "o").shape(), &[30, 4, 6].into());
}

#[test]
fn projections_that_do_not_fit_leave_nothing_behind() {
    for (extra, flags, code, sentence) in [
        (
            &[("e", &[1, 10, 39][..])][..],
            "",
            1,
            "linformer: tensor `e`: expected length M = 40 as in k, or longer, found [1, 10, 39]",
        ),
        (&[("e", &[10, 40])], "", 1, "linformer: tensor `e`: expected rank 3 [1|H, K, M], found rank 2 [10, 40]"),
        (&[("e", &[3, 10, 40])], "", 1, "linformer: tensor `e`: expected 1 or H = 4 heads, found [3, 10, 40]"),
        (
            &[("e", &[1, 10, 40])],
            "--pool max",
            1,
            "linformer: tensor `e`: expected none with --pool max, which takes its place, found [1, 10, 40]",
        ),
        (&[], "--rank 41", 1, "linformer: --rank: expected 1 to M = 40, found 41"),
        (&[], "", 1, "linformer: `rank`: expected 1 to M = 40, found 256 (the default; see --rank)"),
        (&[], "--rank 0", 2, "linformer: --rank: expected a whole number from 1 to 2^64 - 1, found `0`"),
        (&[], "--causal", 2, "linformer: --causal: this operator has no causal form"),
    ] {
        let place = Place::new();
        let mut tensors: Vec<(&str, &[usize])> =
            vec![("q", &[2, 4, 30, 8]), ("k", &[2, 2, 40, 8]), ("v", &[2, 2, 40, 6])];
        tensors.extend(extra);
        place.write("in.safetensors", &tensors);
        place.refuse(&format!("{LOW} {flags} --save-params p.safetensors"), code, sentence);
    }
}

#[test]
fn kernels_heads_and_gates_that_do_not_fit_are_refused_in_a_sentence() {
    for (extra, flags, code, sentence) in [
        (
            &[("kq_pre", &[6, 2, 4][..])][..],
            "",
            1,
            "mta: tensor `kq_pre`: expected an odd number ck of keys up to 31, found 4",
        ),
        (&[("kq_post", &[4, 2, 3])], "", 1, "mta: tensor `kq_post`: expected H = 6 heads as in q, found [4, 2, 3]"),
        (&[("head_pre", &[6, 4])], "", 1, "mta: tensor `head_pre`: expected [6, 6], H = 6 as in q, found [6, 4]"),
        (
            &[("head_post", &[1, 4, 4])],
            "",
            1,
            "mta: tensor `head_post`: expected [H/c, c, c] of groups of heads that divide H = 6, found [1, 4, 4]",
        ),
        (&[("norm", &[8])], "", 1, "mta: tensor `norm`: expected E = 5 as in v, found [8]"),
        (
            &[("gate_weight", &[2, 5])],
            "",
            1,
            "mta: tensor `gate_weight`: expected [1, 5] or [5, 5], E = 5 as in v, found [2, 5]",
        ),
        (
            &[("gate_weight", &[1, 5]), ("gate_bias", &[5])],
            "",
            1,
            "mta: tensor `gate_bias`: expected as many as gate_weight has rows, 1, found [5]",
        ),
        (
            &[("gate_bias", &[1])],
            "",
            1,
            "mta: tensor `gate_weight`: expected [1|E, E], which gate_bias is added to, found none \
             (given: q, k, v, gate_bias)",
        ),
        (&[], "--depth 3", 1, "mta: tensor `norm`: expected [5], which --depth scales, found none (given: q, k, v)"),
        (&[], "--depth x", 2, "mta: --depth: expected a layer, 0 or more, found `x`"),
    ] {
        let place = Place::new();
        let mut tensors: Vec<(&str, &[usize])> = vec![("q", &[6, 7, 8]), ("k", &[2, 7, 8]), ("v", &[2, 7, 5])];
        tensors.extend(extra);
        place.write("in.safetensors", &tensors);
        let run = "run mta --backend cpu --output o.safetensors --input in.safetensors";
        place.refuse(&format!("{run} {flags}"), code, sentence);
    }
}

#[test]
fn windows_need_the_causal_form_and_a_key() {
    let place = place();
    let none = "softmax: --window: expected a whole number from 1 to 2^64 - 1, found `0`";
    place.refuse(&format!("{EXACT} --window 0"), 2, none);
    let open = "softmax: --window needs the causal form";
    place.refuse(&format!("{EXACT} --window 5 --no-causal"), 2, open);
    place.done(&format!("{EXACT} --window 5 --verify"));
    place.done(&format!("{EXACT} --window 18446744073709551615 --verify"));
    place.done(&format!("{EXACT} --no-causal --scale=-0.3 --verify"));
}

#[test]
fn samples_are_valid_and_may_hold_projections() {
    let place = Place::new();
    // A rank to fit is a matter of the run.
    place.done("sample linformer --output in.safetensors --shape H=2,N=20,D=8");
    assert_eq!(place.read("in.safetensors").tensors.names(), "q, k, v");
    place.done(&format!("{LOW} --rank 7 --verify"));
    place.refuse(
        "sample linformer --output x.safetensors --shape H=2,N=20,D=8,K=7",
        2,
        "linformer: --shape: axis K belongs to tensors that are not written, e, f; add --with",
    );
    place.done("sample linformer --output in.safetensors --shape H=2,N=20,D=8,K=7 --with e,f");
    let file = place.read("in.safetensors");
    assert_eq!(file.tensors.names(), "q, k, v, e, f");
    assert_eq!(file.tensors.get("f").unwrap().shape(), &[1, 7, 20].into());
    place.done(&format!("{LOW} --verify"));
    // What flags need is written with the rest.
    place.done("sample linear --output in.safetensors --shape H=4,G=2,N=20,D=8 --rule gated");
    assert_eq!(place.read("in.safetensors").tensors.get("g").unwrap().shape(), &[1, 2, 20].into());
    place.done("run linear --input in.safetensors --backend cpu --rule gated --verify");
    place.refuse(
        "run linear --input in.safetensors --backend cpu",
        1,
        "linear: tensor `g`: expected none under --rule linear, found [1, 2, 20]",
    );
    place
        .done("sample linear --output wide.safetensors --shape H=4,G=2,N=20,D=8 --rule gated --with g.D --layout bnhd");
    assert_eq!(place.read("wide.safetensors").tensors.get("g").unwrap().shape(), &[1, 20, 2, 8].into());
    place.done("run linear --input wide.safetensors --backend cpu --rule gated --layout bnhd --verify");
    // The delta rules need beta, the gated one g too; no other rule takes them.
    place.done("sample linear --output in.safetensors --shape H=4,G=2,N=20,D=8 --rule gated-delta --with g.D");
    assert_eq!(place.read("in.safetensors").tensors.names(), "q, k, v, g, beta");
    place.done("run linear --input in.safetensors --backend cpu --rule gated-delta --verify");
    for (rule, sentence) in [
        ("delta", "linear: tensor `g`: expected none under --rule delta, found [1, 2, 20, 8]"),
        ("gated", "linear: tensor `beta`: expected none under --rule gated, found [1, 2, 20]"),
    ] {
        place.refuse(&format!("run linear --input in.safetensors --backend cpu --rule {rule}"), 1, sentence);
    }
    place.done("sample linear --output in.safetensors --shape H=4,G=2,N=20,D=8 --rule delta");
    place.refuse(
        "run linear --input in.safetensors --backend cpu --rule gated-delta",
        1,
        "linear: tensor `g`: expected [B, G, N] or [B, G, N, D] or [G], or `a` in its place, found none (given: q, k, v, beta)",
    );
    let ran = place.run("sample linformer --output x.safetensors --with g");
    assert_eq!(ran.code, 2, "{ran:?}");
}
