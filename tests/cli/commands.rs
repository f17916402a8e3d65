//! Every command except `run`, and the help.

use super::*;

#[test]
fn sample_run_diff_go_round() {
    let place = Place::new();
    let out = place.done("sample linear --output in.safetensors --shape 2,4,33,8 --seed 5");
    assert!(out.contains("q          f32 [2, 4, 33, 8] -> in.safetensors\n"), "{out}");
    place.done("sample linear --output in.npz --shape B=2,H=4,N=33,D=8 --seed 5");
    place.done("run linear --backend cpu --input in.safetensors --output a.safetensors");
    place.done("run linear --backend cpu --input in.npz --output b.npz");
    let out = place.done("diff a.safetensors b.npz --tolerance 0");
    assert!(out.contains("equal"), "{out}");
    // Another seed, another input.
    place.done("sample linear --output other.npz --shape 2,4,33,8 --seed 6");
    let ran = place.run("diff in.npz other.npz");
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    assert_eq!(ran.out.matches("DIFFERS: over 2e-5").count(), 3, "{}", ran.out);
}

#[test]
fn sample_takes_axes_layout_and_dtype() {
    let place = Place::new();
    place.done("sample linear -o a.npz --shape G=2,N=3,M=5,E=7 --layout bnhd --dtype f16 --quiet");
    for (name, shape) in [("q", [1, 3, 8, 64]), ("k", [1, 5, 2, 64]), ("v", [1, 5, 2, 7])] {
        let tensor = place.tensor("a.npz", name);
        assert_eq!((tensor.dtype(), tensor.shape()), (DType::F16, &shape.into()), "{name}");
    }
    let metadata = place.read("a.npz").metadata;
    assert_eq!(metadata["sample"], "B=1,H=8,G=2,N=3,M=5,D=64,E=7,V=2,F=256,seqs=4");
    assert_eq!((metadata["layout"].as_str(), metadata["seed"].as_str()), ("bnhd", "0"));
    for (shape, sentence) in [
        ("Z=3", "linear: --shape: expected axis letters among B, H, G, N, M, D, E, V, F, seqs, found `Z`"),
        ("N=0", "linear: --shape: expected a length of 1 or more for axis N, found `0`"),
        ("1,2", "linear: --shape: expected 4 lengths B,H,N,D or lengths by letter, found `1,2`"),
        ("H=3,G=2", "--shape: linear: tensor `k`: expected key heads that divide the 3 query heads, found 2 key heads"),
        (
            "N=4000000000000000000",
            "linear: --shape: tensor `q` [1, 8, 4000000000000000000, 64] does not fit into memory",
        ),
    ] {
        place.refuse(&format!("sample linear -o b.npz --shape {shape}"), 2, sentence);
    }
}

#[test]
fn diff_tells_every_kind_of_difference() {
    let place = Place::new();
    let values = |v: [f32; 4]| HostTensor::f32([4], v.to_vec());
    let a: TensorMap = [
        ("same", values([1.0, f32::NAN, f32::INFINITY, 4.0])),
        ("off", values([3.0, 4.0, 0.0, 0.0])),
        ("nan", values([1.0, 2.0, 3.0, 4.0])),
        ("shape", values([0.0; 4])),
        ("half", values([1.0, 2.0, 3.0, 4.0])),
        ("left", values([0.0; 4])),
    ]
    .into_iter()
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .collect();
    let mut b = a.clone();
    b.insert("off", values([3.0, 4.5, 0.0, 0.0]));
    b.insert("nan", values([1.0, f32::NAN, 3.0, 4.0]));
    b.insert("shape", HostTensor::f32([2, 2], vec![0.0; 4]));
    b.insert("half", half_of(&values([1.0, 2.0, 3.0, 4.0])));
    b.remove("left");
    b.insert("right", values([0.0; 4]));
    place.write_map("a.safetensors", &a);
    place.write_map("b.safetensors", &b);
    let ran = place.run("diff a.safetensors b.safetensors --json");
    assert_eq!(ran.code, 1);
    let report = json(&ran.out);
    let of = |name: &str| {
        let tensors = report["tensors"].as_array().unwrap();
        tensors.iter().find(|tensor| tensor["name"] == name).unwrap().clone()
    };
    for (name, equal) in [
        ("same", true),
        ("off", false),
        ("nan", false),
        ("shape", false),
        ("half", true),
        ("left", false),
        ("right", false),
    ] {
        assert_eq!(of(name)["equal"], equal, "{name}");
    }
    assert_eq!((&of("off")["relative_rms"], &of("off")["max_abs"]), (&0.1.into(), &0.5.into()));
    assert_eq!(of("nan")["non_finite_mismatches"], 1);
    assert_eq!((&of("left")["reason"], &of("right")["reason"]), (&"only in A".into(), &"only in B".into()));
    assert_eq!(
        (&of("nan")["reason"], &of("off")["shape"]),
        (&"1 values that are not finite differ".into(), &of("same")["shape"])
    );
    // Shapes are arrays, whether the files agree or not.
    for (name, shape, shapes) in [
        ("same", serde_json::json!([4]), serde_json::json!([[4], [4]])),
        ("shape", serde_json::json!(null), serde_json::json!([[4], [2, 2]])),
        ("left", serde_json::json!([4]), serde_json::json!([[4], null])),
    ] {
        assert_eq!((&of(name)["shape"], &of(name)["shapes"]), (&shape, &shapes), "{name}");
    }
    assert!(of("shape")["relative_rms"].is_null() && of("shape")["reason"] == "other shape");
    let table = place.run("diff a.safetensors b.safetensors").out;
    for words in ["[4] / [2, 2]", "DIFFERS: other shape", "f32 / f16", "DIFFERS: only in B"] {
        assert!(table.contains(words), "{words} in {table}");
    }

    assert_eq!(place.run("diff a.safetensors a.safetensors").code, 0);
    let ran = place.run("diff a.safetensors b.safetensors --quiet");
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (1, "", ""));
    let sentence = "diff: --tolerance: expected a number of 0 or more, found `-1`";
    place.refuse("diff a.safetensors b.safetensors --tolerance -1", 2, sentence);
    place.refuse("diff - -", 2, "diff: only one file can be `-`, standard input");
    // A difference within the tolerance does not count.
    for (tolerance, code) in [("0.2", 0), ("0.05", 1)] {
        for (file, map) in [("x.npz", &a), ("y.npz", &b)] {
            let off = map.get("off").cloned().map(|off| ("off".to_owned(), off));
            place.write_map(file, &off.into_iter().collect());
        }
        assert_eq!(place.run(&format!("diff x.npz y.npz --tolerance {tolerance}")).code, code);
    }
}

#[test]
fn inspect_lists_what_the_headers_say() {
    let place = Place::new();
    place.done("sample linear -o in.safetensors --shape 1,2,3,4 --dtype f16 --seed 3");
    let listing = place.done("inspect in.safetensors").replace(env!("CARGO_PKG_VERSION"), "VERSION");
    insta::assert_snapshot!("inspect", listing);
    let report = json(&place.done("inspect in.safetensors --json"));
    assert_eq!(report["format"], "safetensors");
    assert_eq!(report["tensors"][1]["name"], "k");
    assert_eq!(report["tensors"][1]["shape"], serde_json::json!([1, 2, 3, 4]));
    assert_eq!(report["tensors"][1]["bytes"], 48);
    assert_eq!(report["metadata"]["seed"], "3");
    // dtypes that no operator reads are listed too.
    raw(&place.path("mask.safetensors"), r#"{"m":{"dtype":"BOOL","shape":[2,2],"data_offsets":[0,4]}}"#, 4);
    assert!(place.done("inspect mask.safetensors").contains("BOOL"));
}

#[test]
fn check_on_the_cpu_backend_passes_and_says_how_well() {
    let place = Place::new();
    let out = place.done("check linear --backend cpu --quick");
    let row: Vec<_> = out.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(&row[..2], ["linear", "cpu,"], "{out}");
    let report = json(&place.done("check linear --backend cpu --quick --json"));
    assert_eq!((&report["ok"], &report["results"][0]["failed"]), (&true.into(), &0.into()));
    assert!(report["results"][0]["cases"].as_u64().unwrap() > 10);
    let worst = &report["results"][0]["worst"];
    assert!(worst["error"].as_f64().unwrap() <= worst["bound"].as_f64().unwrap());
    let sentence = "--adapter cannot be used with --backend cpu";
    place.refuse("check --backend cpu --adapter all", 2, sentence);
}

#[test]
fn adapters_always_has_the_cpu() {
    let place = Place::new();
    assert!(place.done("adapters").contains("cpu, "));
    let report = json(&place.done("adapters --json"));
    let adapters = report["adapters"].as_array().expect("a list");
    assert!(adapters.iter().all(|adapter| adapter["fault"].is_null() || adapter["refused"].is_string()), "{report}");
    assert!(report["cpu"]["threads"].as_u64().unwrap() > 0);
}

#[test]
fn completions_know_operators_and_flags() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.done(&format!("completions {shell}"));
        assert!(script.contains("linear") && script.contains("feature-map"), "{shell}");
    }
}

#[test]
fn help_shows_tensors_flags_and_an_example() {
    let place = Place::new();
    insta::assert_snapshot!("run_linear_help", place.done("run linear --help"));
    let help = place.done("--help");
    for command in ["run", "sample", "diff", "inspect", "merge", "check", "adapters", "completions"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} in {help}");
    }
    assert_eq!(place.done("--version"), concat!("subquad ", env!("CARGO_PKG_VERSION"), "\n"));
}
