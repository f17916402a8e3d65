//! Parts of operators as commands: topk, gather, sort, norm, quantize, matmul.

use subquad::ops::PARTS;

use super::*;

const CPU: &str = "--backend cpu --quiet --verify --input in.safetensors --output out.safetensors";

fn whole(shape: &[usize], values: &[i64]) -> HostTensor {
    HostTensor::new(shape, Values::I64(values.to_vec()))
}

fn map<const K: usize>(tensors: [(&str, HostTensor); K]) -> TensorMap {
    tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

/// Runs a part on these tensors, which must agree with the reference, and returns what it wrote.
#[track_caller]
fn run(part: &str, tensors: &TensorMap, flags: &str) -> TensorMap {
    let place = Place::new();
    place.write_map("in.safetensors", tensors);
    place.done(&format!("run {part} {CPU} {flags}"));
    place.read("out.safetensors").tensors
}

#[test]
fn every_part_runs_on_what_sample_draws() {
    let place = Place::new();
    for part in PARTS {
        let name = part.name;
        let heads = part.axes.iter().any(|(letter, _)| *letter == "H");
        let [few, one] = if heads { ["B=2,H=3,N=5", "H=1,N=1"] } else { ["N=5", "N=1"] };
        for (shape, flags) in [
            (String::new(), ""),
            (format!("--shape {few}"), "--layout bnhd"),
            (format!("--shape {one}"), "--dtype f16"),
        ] {
            place.done(&format!("sample {name} --quiet --output in.safetensors {shape} {flags}"));
            let ran = place.run(&format!("run {name} {CPU} {flags} --strict"));
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{name} {shape} {flags}: {ran:?}");
            place.remove(&["in.safetensors", "out.safetensors"]);
        }
        let help = place.done("run --help");
        assert!(help.contains(&format!("  {name:<10} {}\n", part.summary)), "{help}");
        assert!(place.done(&format!("check {name} --quick --adapter cpu")).starts_with("operator"), "{name}");
    }
}

#[test]
fn the_best_addresses_are_written_as_i32_with_their_weights() {
    let q = HostTensor::f32([1, 4], vec![0.0, 1.0, 2.0, 0.0]);
    let out = run("topk", &map([("q", q)]), "--choices 2 --topk 3 --weights softmax");
    // Sums: 2 of address 0, 3 of 1, 0 of 2, 1 of 3.
    assert_eq!(out.get("index").unwrap().to_f64(), [1.0, 0.0, 3.0]);
    let weight = out.get("weight").unwrap();
    assert_eq!(weight.shape(), &[1, 3].into());
    let all = 1.0 + (-1f64).exp() + (-2f64).exp();
    for (got, sum) in weight.to_f64().into_iter().zip([0.0, -1.0, -2.0]) {
        assert!((got - f64::exp(sum) / all).abs() < 1e-6, "{got}");
    }
    let place = Place::new();
    place.done("sample topk --quiet -o q.npz --shape H=2,N=3");
    let written = place.done("run topk -i q.npz -o out.safetensors --backend cpu");
    assert!(written.contains("\nindex      i32 [1, 2, 3, 8] -> out.safetensors\n"), "{written}");
    assert!(place.done("inspect out.safetensors").contains("index   I32    [1, 2, 3, 8]"));
}

/// The commands of docs/operators.md, at another size.
#[test]
fn product_keys_are_topk_and_gather() {
    let place = Place::new();
    place.done("sample topk -o scores.safetensors --shape H=2,N=5,U*P=12");
    place.done("sample gather -o values.safetensors --shape S=36,E=3");
    place.done(
        "run topk -i scores.safetensors -o found.npz --choices 6 --topk 4 --weights softmax --backend cpu --verify",
    );
    place.done("run gather -i found.npz --params values.safetensors -o o.npz --backend cpu --verify");
    let [scores, values, o] =
        [("scores.safetensors", "q"), ("values.safetensors", "table"), ("o.npz", "o")].map(|(f, n)| place.tensor(f, n));
    let (values, mut want) = (values.to_f64(), Vec::new());
    for row in scores.to_f64().chunks_exact(12) {
        let mut pairs: Vec<_> = (0..36).map(|at| (row[at % 6] + row[6 + at / 6], at)).collect();
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let all: f64 = pairs[..4].iter().map(|(sum, _)| sum.exp()).sum();
        want.extend(
            (0..3).map(|e| pairs[..4].iter().map(|(sum, at)| sum.exp() / all * values[at * 3 + e]).sum::<f64>()),
        );
    }
    assert_eq!(o.shape(), &[1, 2, 5, 3].into());
    let error = subquad::verify::tolerance::relative_rms(&o.to_f64(), &want);
    assert!(error < 1e-6, "{error:.2e}");
}

#[test]
fn a_table_per_head_or_for_all_keeps_its_storage_type() {
    let index = whole(&[2, 1, 2], &[0, 2, 1, 1]);
    let weight = HostTensor::f32([2, 1, 2], vec![1.0, 2.0, 1.0, -1.0]);
    let table = HostTensor::f32([2, 3, 1], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let all = |table: HostTensor| map([("index", index.clone()), ("weight", weight.clone()), ("table", table)]);
    assert_eq!(run("gather", &all(table.clone()), "").get("o").unwrap().to_f32(), [7.0, 0.0]);
    let o = run("gather", &all(half_of(&table)), "");
    assert_eq!((o.get("o").unwrap().dtype(), o.get("o").unwrap().to_f32()), (DType::F16, vec![7.0, 0.0]));
    let shared = HostTensor::f32([1, 3, 1], vec![1.0, 2.0, 5.0]);
    assert_eq!(run("gather", &all(shared), "").get("o").unwrap().to_f32(), [11.0, 0.0]);
}

#[test]
fn lists_are_sorted_stably_with_the_start_of_each_bin() {
    let out = run("sort", &map([("bins", whole(&[2, 4], &[2, 0, 2, 1, 1, 1, 0, 0]))]), "--bins 4");
    assert_eq!(out.get("order").unwrap().to_f64(), [1., 3., 0., 2., 2., 3., 0., 1.]);
    assert_eq!(out.get("offsets").unwrap().to_f64(), [0., 1., 2., 4., 4., 0., 2., 4., 4., 4.]);
    assert_eq!(out.get("offsets").unwrap().shape(), &[2, 5].into());
}

#[test]
fn a_norm_takes_a_weight_for_all_or_per_head_and_a_gate() {
    let x = HostTensor::f32([2, 1, 2], vec![3.0, -3.0, 0.5, 0.5]);
    let per_head = HostTensor::f32([2, 2], vec![1.0, 2.0, 3.0, 4.0]);
    let gate = HostTensor::f32([2, 1, 2], vec![0.0, 50.0, 50.0, 0.0]);
    let o = run("norm", &map([("x", x.clone()), ("weight", per_head), ("gate", gate)]), "--eps 0");
    assert_eq!(o.get("o").unwrap().to_f32(), [0.5, -2.0, 3.0, 2.0]);
    let o = run("norm", &map([("x", x), ("weight", HostTensor::f32([2], vec![1.0, 2.0]))]), "--eps 0");
    assert_eq!(o.get("o").unwrap().to_f32(), [1.0, -2.0, 1.0, 2.0]);
}

#[test]
fn a_row_becomes_its_nearest_code_of_equal_ones_the_lower() {
    let x = HostTensor::f32([2, 3, 1], vec![0.0, 2.0, 9.0, 0.0, 2.0, 9.0]);
    let all = |x: HostTensor, book: HostTensor| map([("x", x), ("codebook", book)]);
    let out = run("quantize", &all(x.clone(), HostTensor::f32([4, 1], vec![3.0, 1.0, 8.0, 1.0])), "");
    assert_eq!(out.get("code").unwrap(), &HostTensor::new([2, 3], Values::I64(vec![1, 0, 2, 1, 0, 2])));
    assert_eq!(out.get("o").unwrap().to_f32(), [1.0, 3.0, 8.0, 1.0, 3.0, 8.0]);
    // A codebook per head; o has the storage type of x.
    let own = HostTensor::f32([2, 2, 1], vec![3.0, 1.0, 0.1, 10.0]);
    let out = run("quantize", &all(half_of(&x), own), "");
    assert_eq!(out.get("code").unwrap().to_f64(), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(out.get("o").unwrap().dtype(), DType::F16);
    // Under bnhd the heads come last, of code too.
    let turned = run(
        "quantize",
        &all(HostTensor::f32([1, 3, 2, 1], vec![0., 9., 2., 9., 9., 9.]), HostTensor::f32([2, 1], vec![1.0, 8.0])),
        "--layout bnhd",
    );
    assert_eq!(turned.get("code").unwrap(), &HostTensor::new([1, 3, 2], Values::I64(vec![0, 1, 0, 1, 1, 1])));
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    let zeros = |shape: &[usize]| HostTensor::zeros(shape, DType::F32);
    let index = |values: &[i64]| {
        map([("index", whole(&[1, 2], values)), ("weight", zeros(&[1, 2])), ("table", zeros(&[5, 3]))])
    };
    let found = "found 1 of 2 that are not, the first";
    let cases = [
        (
            "topk",
            map([("q", zeros(&[5, 20]))]),
            "--choices 3",
            1,
            "tensor `q`: expected a last axis U*P that is a multiple of P = 3 choices, found 20",
        ),
        ("topk", map([("q", zeros(&[5, 20]))]), "--topk 65", 2, "--topk: expected 1 to 64, found 65"),
        ("topk", map([("q", zeros(&[5, 4]))]), "--topk 5", 1, "--topk: expected 1 to the 4 addresses, found 5"),
        ("topk", map([("q", zeros(&[5, 20]))]), "--tau 0", 2, "--tau: expected a finite number over 0, found 0"),
        (
            "topk",
            map([("q", zeros(&[5, 20]))]),
            "--causal",
            2,
            "--causal and --no-causal cannot be used: its tokens do not see each other",
        ),
        ("gather", index(&[0, 5]), "", 1, "tensor `index`: expected whole numbers from 0 to 4, found 5 at 1"),
        (
            "gather",
            index(&[0, -1]),
            "",
            1,
            &format!("tensor `index`: expected whole numbers from 0 to 2147483647, {found} -1"),
        ),
        (
            "gather",
            index(&[1 << 31, 0]),
            "",
            1,
            &format!("tensor `index`: expected whole numbers from 0 to 2147483647, {found} 2147483648"),
        ),
        (
            "gather",
            map([("index", zeros(&[1, 2])), ("weight", zeros(&[1, 2])), ("table", zeros(&[5, 3]))]),
            "",
            1,
            "tensor `index`: expected i64, i32 or u32, found f32",
        ),
        (
            "gather",
            map([
                ("index", whole(&[1, 1, 1, 2], &[0, 1])),
                ("weight", zeros(&[1, 1, 1, 2])),
                ("table", zeros(&[1, 2, 5, 3])),
            ]),
            "",
            1,
            "tensor `table`: expected 1 or H = 1 tables along H, as index has, found 2",
        ),
        (
            "gather",
            map([("index", whole(&[1, 2], &[0, 1])), ("weight", zeros(&[1, 3])), ("table", zeros(&[5, 3]))]),
            "",
            1,
            "tensor `weight`: expected [1, 1, 1, 2], found [1, 1, 1, 3]",
        ),
        (
            "sort",
            map([("bins", whole(&[1, 2], &[3, 4]))]),
            "--bins 4",
            1,
            "tensor `bins`: expected whole numbers from 0 to 3, found 4 at 1",
        ),
        (
            "sort",
            map([("bins", whole(&[1, 2], &[3, 4]))]),
            "--bins 3000000",
            2,
            "--bins: expected 1 to 2097150, found 3000000",
        ),
        (
            "norm",
            map([("x", zeros(&[5, 4])), ("weight", zeros(&[3]))]),
            "",
            1,
            "tensor `weight`: expected [4], found [3]",
        ),
        (
            "norm",
            map([("x", zeros(&[5, 4])), ("gate", zeros(&[5, 3]))]),
            "",
            1,
            "tensor `gate`: expected [1, 1, 5, 4], found [1, 1, 5, 3]",
        ),
        ("norm", map([("x", zeros(&[5, 4]))]), "--eps -1", 2, "--eps: expected a finite number of 0 or more, found -1"),
        (
            "quantize",
            map([("x", zeros(&[5, 4])), ("codebook", zeros(&[7, 3]))]),
            "",
            1,
            "tensor `codebook`: expected [7, 4], found [7, 3]",
        ),
        (
            "quantize",
            map([("x", zeros(&[5, 4])), ("codebook", zeros(&[2, 7, 4]))]),
            "",
            1,
            "tensor `codebook`: expected [1, 7, 4], found [2, 7, 4]",
        ),
        (
            "quantize",
            map([("x", zeros(&[5, 1025])), ("codebook", zeros(&[7, 1025]))]),
            "",
            1,
            "`E`: expected 1 to 1024, found 1025",
        ),
    ];
    for (part, tensors, flags, code, sentence) in cases {
        let place = Place::new();
        place.write_map("in.safetensors", &tensors);
        place.refuse(&format!("run {part} {CPU} {flags}"), code, &format!("{part}: {sentence}"));
    }
}
