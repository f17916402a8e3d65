//! Runs that succeed on the `cpu` backend, and one that compares a GPU with it.

use super::*;

const RUN: &str = "run linear --backend cpu --quiet --input";

/// o of linear attention with elu1 and the normaliser, written independently of the crate, in f64.
fn expected(q: &HostTensor, k: &HostTensor, v: &HostTensor) -> Vec<f64> {
    let [_, h, n, d] = *q.shape().dims() else { panic!("four axes") };
    let e = v.shape().dims()[3];
    let phi = |x: &f64| if *x > 0.0 { x + 1.0 } else { x.exp() };
    let [q, k, v] = [q, k, v].map(HostTensor::to_f64);
    let mut o = Vec::new();
    for head in 0..h {
        for i in 0..n {
            let query: Vec<f64> = q[(head * n + i) * d..][..d].iter().map(phi).collect();
            let weights: Vec<f64> = (0..=i)
                .map(|j| k[(head * n + j) * d..][..d].iter().map(phi).zip(&query).map(|(k, q)| k * q).sum())
                .collect();
            let total = weights.iter().sum::<f64>() + 1e-6;
            o.extend(
                (0..e).map(|c| {
                    weights.iter().enumerate().map(|(j, w)| w * v[(head * n + j) * e + c]).sum::<f64>() / total
                }),
            );
        }
    }
    o
}

#[test]
fn the_output_is_linear_attention() {
    let place = Place::new();
    place.write("in.safetensors", PLAIN);
    place.done(&format!("{RUN} in.safetensors -o out.safetensors"));
    let [q, k, v] = ["q", "k", "v"].map(|name| place.tensor("in.safetensors", name));
    let out = place.read("out.safetensors");
    assert_eq!(out.tensors.names(), "o");
    let o = place.tensor("out.safetensors", "o");
    assert_eq!((o.dtype(), o.shape()), (DType::F32, &[1, 2, 6, 3].into()));
    let error = subquad::verify::tolerance::relative_rms(&o.to_f64(), &expected(&q, &k, &v));
    assert!(error < 1e-6, "relative RMS {error:.2e}");
}

#[test]
fn ranks_two_and_three_give_outputs_of_their_rank() {
    let place = Place::new();
    place.write("four.npz", PLAIN);
    place.done(&format!("{RUN} four.npz -o o4.npz"));
    let o4 = place.tensor("o4.npz", "o");
    let four = place.read("four.npz").tensors;

    let reshape = |drop: usize, batch_heads: usize| -> TensorMap {
        let one = |(name, tensor): (&str, &HostTensor)| {
            let heads = rows_of_heads(tensor, batch_heads);
            let shape = heads.shape().dims()[drop..].to_vec();
            (name.to_owned(), heads.reshape(shape))
        };
        four.iter().map(one).collect()
    };
    place.write_map("three.npz", &reshape(1, 2));
    place.done(&format!("{RUN} three.npz -o o3.npz"));
    same(&place.tensor("o3.npz", "o"), &o4.clone().reshape([2, 6, 3]));

    place.write_map("two.npz", &reshape(2, 1));
    place.done(&format!("{RUN} two.npz -o o2.npz"));
    same(&place.tensor("o2.npz", "o"), &rows_of_heads(&o4, 1).reshape([6, 3]));
    // A 2-D tensor is the same in both layouts.
    place.done(&format!("{RUN} two.npz -o o2b.npz --layout bnhd"));
    same(&place.tensor("o2b.npz", "o"), &place.tensor("o2.npz", "o"));
}

/// The first heads of a tensor of batch 1.
fn rows_of_heads(tensor: &HostTensor, heads: usize) -> HostTensor {
    let [b, h, n, d] = *tensor.shape().dims() else { panic!("four axes") };
    assert_eq!(b, 1);
    let heads = heads.min(h);
    HostTensor::f32([1, heads, n, d], tensor.to_f32()[..heads * n * d].to_vec())
}

#[test]
fn both_layouts_give_the_same_numbers() {
    let place = Place::new();
    place.write("in.npz", &[("q", &[2, 4, 70, 8]), ("k", &[2, 2, 70, 8]), ("v", &[2, 2, 70, 5])]);
    let other = place.read("in.npz").tensors.iter().map(|(name, t)| (name.to_owned(), swapped(t))).collect();
    place.write_map("bnhd.npz", &other);
    place.done(&format!("{RUN} in.npz -o a.npz"));
    place.done(&format!("{RUN} bnhd.npz -o b.npz --layout bnhd"));
    close(&swapped(&place.tensor("b.npz", "o")), &place.tensor("a.npz", "o"));
    // Three axes of bnhd: length before heads.
    let three = other_three(&place, "bnhd.npz");
    place.write_map("nhd.npz", &three);
    place.done(&format!("{RUN} nhd.npz -o c.npz --layout bnhd"));
    assert_eq!(place.tensor("c.npz", "o").shape(), &[70, 4, 5].into());
    let first = place.tensor("b.npz", "o").to_f32()[..70 * 4 * 5].to_vec();
    close(&place.tensor("c.npz", "o"), &HostTensor::f32([70, 4, 5], first));
}

/// The first batch of each tensor, without the batch axis.
fn other_three(place: &Place, file: &str) -> TensorMap {
    let cut = |(name, tensor): (&str, &HostTensor)| {
        let dims = tensor.shape().dims()[1..].to_vec();
        let count = dims.iter().product();
        (name.to_owned(), HostTensor::f32(dims, tensor.to_f32()[..count].to_vec()))
    };
    place.read(file).tensors.iter().map(cut).collect()
}

#[test]
fn storage_follows_the_input_unless_told() {
    let place = Place::new();
    place.write("f32.safetensors", PLAIN);
    let half: TensorMap =
        place.read("f32.safetensors").tensors.iter().map(|(name, t)| (name.to_owned(), half_of(t))).collect();
    place.write_map("f16.safetensors", &half);
    let mut mixed = half.clone();
    mixed.insert("v", filled("v", PLAIN[2].1));
    place.write_map("mixed.safetensors", &mixed);
    for (file, flags, dtype) in [
        ("f32", "", DType::F32),
        ("f16", "", DType::F16),
        ("f16", "--dtype auto", DType::F16),
        ("f16", "--dtype f32", DType::F32),
        ("f32", "--dtype f16", DType::F16),
        ("mixed", "", DType::F32),
    ] {
        place.done(&format!("{RUN} {file}.safetensors -o {file}.npz {flags}"));
        let o = place.tensor(&format!("{file}.npz"), "o");
        assert_eq!(o.dtype(), dtype, "{file} {flags}");
        let [q, k, v] = PLAIN.iter().map(|(name, shape)| filled(name, shape)).collect::<Vec<_>>().try_into().unwrap();
        let error = subquad::verify::tolerance::relative_rms(&o.to_f64(), &expected(&q, &k, &v));
        assert!(error < 2e-3, "{file} {flags}: {error:.2e}");
        assert_eq!(place.read(&format!("{file}.npz")).metadata["dtype"], dtype.name());
    }
    let ran = place.run("run linear --backend cpu --input mixed.safetensors");
    assert_eq!((ran.code, ran.err.as_str()), (0, "stored as f32: q, k are f16, but v are not\n"));
}

#[test]
fn metadata_says_how_a_file_was_made() {
    let place = Place::new();
    place.write("in.safetensors", PLAIN);
    let flags = "--feature-map relu --no-causal --scale -0.5 --seed 9";
    place.done(&format!("{RUN} in.safetensors -o out.safetensors {flags}"));
    let metadata = place.read("out.safetensors").metadata;
    for (key, value) in [
        ("operator", "linear"),
        ("flags", "--no-causal --feature-map relu --scale -0.5"),
        ("adapter", "cpu"),
        ("version", concat!("subquad ", env!("CARGO_PKG_VERSION"))),
        ("seed", "9"),
        ("layout", "bhnd"),
        ("dtype", "f32"),
    ] {
        assert_eq!(metadata.get(key).map(String::as_str), Some(value), "{key}");
    }
    // A file that says its layout is not silently read as the other.
    place.done("sample linear -o s.npz --layout bnhd --shape 1,2,5,4");
    let ran = place.run("run linear --backend cpu -i s.npz");
    assert_eq!(ran.err, "warning: the input says that its layout is bnhd, but it is read as bhnd\n");
}

#[test]
fn formats_and_streams_hold_the_same_numbers() {
    let place = Place::new();
    place.write("in.safetensors", PLAIN);
    place.write("in.npz", PLAIN);
    place.write("in", PLAIN);
    assert!(place.path("in/q.npy").is_file());
    place.done(&format!("{RUN} in.safetensors -o a.safetensors"));
    let a = place.tensor("a.safetensors", "o");
    for (input, output) in [("in.npz", "b.npz"), ("in", "c"), ("in.npz", "d/")] {
        place.done(&format!("{RUN} {input} -o {output}"));
        same(&place.tensor(output, "o"), &a);
    }
    let mut command = place.command(&["run", "linear", "--backend", "cpu", "--input", "-", "--output", "-"]);
    let bytes = std::fs::read(place.path("in.safetensors")).unwrap();
    let output = command.write_stdin(bytes).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("variant"), "the summary moves to stderr");
    std::fs::write(place.path("piped.safetensors"), output.stdout).unwrap();
    same(&place.tensor("piped.safetensors", "o"), &a);
}

#[test]
fn weights_come_from_params_where_the_input_lacks_them() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    place.write("q.npz", &[("q", PLAIN[0].1), ("heat", &[6, 6])]);
    // A v that the input has too: the input counts.
    place.write("kv.npz", &[PLAIN[1], PLAIN[2], ("q", &[3]), ("other", &[2])]);
    place.done(&format!("{RUN} in.npz -o a.npz"));
    let ran = place.run("run linear --backend cpu --input q.npz --params kv.npz --output b.npz");
    let note = "not used: heat (tensors of the input that linear does not read)\n";
    assert_eq!((ran.code, ran.err.as_str()), (0, note));
    same(&place.tensor("b.npz", "o"), &place.tensor("a.npz", "o"));
}

/// The files of the three formats with PLAIN in them and, before and behind it, what no operator reads.
fn with_masks(place: &Place) -> [&'static str; 3] {
    let mask = "{'descr': '|b1', 'fortran_order': False, 'shape': (7,), }\n";
    let mask = [b"\x93NUMPY\x01\0", &(mask.len() as u16).to_le_bytes()[..], mask.as_bytes(), &[1; 7]].concat();
    place.write("in", PLAIN);
    std::fs::write(place.path("in/a_mask.npy"), &mask).unwrap();
    std::fs::write(place.path("in/z_mask.npy"), &mask).unwrap();

    let mut zip = zip::ZipWriter::new(std::fs::File::create(place.path("in.npz")).unwrap());
    for name in ["a_mask", "k", "q", "v", "z_mask"] {
        zip.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut zip, &std::fs::read(place.path(&format!("in/{name}.npy"))).unwrap()).unwrap();
    }
    zip.finish().unwrap();

    let (mut entries, mut data) = (Vec::new(), Vec::new());
    let mut add = |name: &str, dtype: &str, shape: &[usize], bytes: &[u8]| {
        let (from, to) = (data.len(), data.len() + bytes.len());
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#));
        data.extend_from_slice(bytes);
    };
    add("a_mask", "BOOL", &[7], &[1; 7]);
    for (name, shape) in PLAIN {
        add(name, "F32", shape, filled(name, shape).bytes());
    }
    add("z_mask", "F8_E4M3", &[2, 2], &[1; 4]);
    let header = format!("{{{}}}", entries.join(","));
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(place.path("in.safetensors"), [&length, header.as_bytes(), &data].concat()).unwrap();
    ["in", "in.npz", "in.safetensors"]
}

#[test]
fn a_tensor_that_is_not_read_may_have_any_dtype() {
    let place = Place::new();
    place.write("plain.npz", PLAIN);
    place.done(&format!("{RUN} plain.npz -o o.npz"));
    let expected = place.tensor("o.npz", "o");
    let note = "not used: a_mask, z_mask (tensors of the input that linear does not read)\n";
    for input in with_masks(&place) {
        let ran = place.run(&format!("run linear --backend cpu --input {input} --output m.npz"));
        assert_eq!((ran.code, ran.err.as_str()), (0, note), "{input}");
        same(&place.tensor("m.npz", "o"), &expected);
        // The same file as --params, for an input that has its own k.
        place.write("k.npz", &PLAIN[1..2]);
        place.done(&format!("{RUN} k.npz --params {input} --output p.npz"));
        same(&place.tensor("p.npz", "o"), &expected);
        if !place.path(input).is_dir() {
            let bytes = std::fs::read(place.path(input)).unwrap();
            let mut command = place.command(&["run", "linear", "--backend", "cpu", "-i", "-", "-o", "s.npz"]);
            let ran = Ran::of(command.write_stdin(bytes));
            assert_eq!((ran.code, ran.err.as_str()), (0, note), "{input}");
            same(&place.tensor("s.npz", "o"), &expected);
        }
    }
    // It may even have the name of one that is wanted, where the input has that: only there is it looked up.
    raw(&place.path("q.safetensors"), r#"{"q":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}"#, 2);
    place.done(&format!("{RUN} plain.npz --params q.safetensors --output q.npz"));
    same(&place.tensor("q.npz", "o"), &expected);
    let sentence = "q.safetensors: tensor `q`: expected dtype f32, f16, bf16, f64, i64, i32, u32, u8 or bool, found I8";
    place.refuse("run linear --backend cpu --input q.safetensors --params plain.npz", 1, sentence);
    place.refuse("run linear --backend cpu --input k.npz --params q.safetensors", 1, sentence);
    // A missing tensor is reported with those of either file, of whatever dtype.
    raw(&place.path("m.safetensors"), r#"{"query":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}"#, 2);
    let sentence = "linear: tensor `q`: expected [B, H, N, D], found none (given: k, query)";
    place.refuse("run linear --backend cpu --input k.npz --params m.safetensors", 1, sentence);
    place.refuse("run linear --backend cpu --params k.npz --input m.safetensors", 1, sentence);
}

#[test]
fn where_it_ran_is_one_short_line() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let ran = place.run("run linear --input in.npz");
    assert_eq!((ran.code, ran.err.lines().count()), (0, 1), "{ran:?}");
    assert!(ran.err.starts_with("running on ") && ran.err.ends_with(")\n"), "{ran:?}");
    assert!(!ran.err.contains("running on cpu") || ran.err.contains("(no "), "{ran:?}");
    assert!(ran.err.chars().count() < 200, "{ran:?}");
}

#[test]
fn results_go_to_stdout_for_people_and_programs() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let ran = place.run("run linear --backend cpu --input in.npz --output o.npz --verify");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    let keys: Vec<_> = lines.iter().map(|words| words[0]).collect();
    assert_eq!(keys, ["operator", "ran", "input", "k", "v", "variant", "time", "o", "relative"], "{}", ran.out);
    assert!(
        ran.out
            .contains("input      q f32 [1, 2, 6, 4] as H=2 N=6 D=4\n           k f32 [1, 2, 6, 4] as G=2 M=6 D=4\n")
    );
    assert!(ran.out.contains(" (computation only, without reading and writing files)\n"), "{}", ran.out);
    assert!(ran.out.contains("o          f32 [1, 2, 6, 3] -> o.npz\n") && ran.out.ends_with(": ok\n"), "{}", ran.out);

    let out = place.done("run linear --backend cpu --input in.npz --json --verify --causal");
    assert_eq!(out.lines().count(), 1);
    let report = json(&out);
    assert_eq!(report["schema"], 1);
    assert_eq!((&report["command"], &report["operator"]), (&"run".into(), &"linear".into()));
    assert_eq!((&report["backend"], &report["verified"]), (&"cpu".into(), &true.into()));
    assert_eq!(report["flags"], serde_json::json!({"causal": "true"}));
    assert_eq!(report["outputs"][0]["shape"], serde_json::json!([1, 2, 6, 3]));
    let v = serde_json::json!({"name": "v", "dtype": "f32", "shape": [1, 2, 6, 3], "axes": {"B": 1, "G": 2, "M": 6, "E": 3}});
    assert_eq!(report["inputs"][2], v);
    assert!(report["seconds_include"].as_str().unwrap().starts_with("computation only"));
    assert_eq!(report["outputs"][0]["file"], serde_json::Value::Null);
    assert!(report["outputs"][0]["error"].as_f64().unwrap() <= report["outputs"][0]["bound"].as_f64().unwrap());
    assert!(report["seconds"].as_f64().unwrap() > 0.0 && report["threads"].as_u64().unwrap() > 0);
    assert_eq!(place.names(), ["in.npz", "o.npz"]);
}

#[test]
fn parameters_that_are_not_drawn_are_not_saved() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let ran = place.run("run linear --backend cpu --input in.npz --save-params p.npz");
    assert_eq!((ran.code, ran.err.as_str()), (0, "p.npz is not written: linear drew no parameters from the seed\n"));
    assert_eq!(place.names(), ["in.npz"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    for arguments in ["completions bash", "--help", "run linear --help"] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_subquad"))
            .args(&arguments)
            .current_dir(place.0.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
    }
}

/// Scores inside a chunk pass the range of f32 where the definition, which multiplies the state, does not.
#[test]
fn a_wrong_output_is_written_and_ends_in_exit_code_3() {
    let place = Place::new();
    let mut tensors: TensorMap = [("q", 1e20), ("k", 1e20), ("v", 1e-15)]
        .map(|(name, x)| (name.to_owned(), HostTensor::f32([9, 4], vec![x; 36])))
        .into_iter()
        .collect();
    place.write_map("in.npz", &tensors);
    let run = "run linear --backend cpu -i in.npz -o o.npz --verify --no-normalize --feature-map identity --scale 1";
    let ran = place.run(run);
    let warning = "warning: linear: tensor `o`: 36 of 36 values are not finite, the first inf at [0, 0]\n";
    assert_eq!((ran.code, ran.err.as_str()), (3, warning), "{ran:?}");
    assert!(ran.out.ends_with(": FAILED\n"), "{ran:?}");
    assert_eq!(place.tensor("o.npz", "o").shape(), &[9, 4].into());
    let ran = place.run(&format!("{run} --quiet --json"));
    let report = json(&ran.out);
    assert_eq!((ran.code, report["verified"].as_bool()), (3, Some(false)), "{ran:?}");
    // JSON has no number for an infinite error.
    let output = &report["outputs"][0];
    assert!(output["error"].is_null() && output["bound"].is_number(), "{output}");
    assert_eq!(output["reason"], "the error is infinite, row 8 of 9 is off by inf, 8.00e-6 allowed");
    assert_eq!(ran.err, "error: linear: --verify: `o` exceeds its tolerance\n");
    tensors.insert("q", filled("q", &[9, 4]));
    place.write_map("in.npz", &tensors);
    place.done(run);
}

/// The native backend of this system; software adapters count.
const GPU: &str = if cfg!(target_vendor = "apple") {
    "metal"
} else if cfg!(windows) {
    "dx12"
} else {
    "vulkan"
};

#[test]
fn a_gpu_gives_what_the_cpu_gives_piece_after_piece() {
    let place = Place::new();
    let shapes = [("q", [2, 4, 90, 24]), ("k", [2, 2, 90, 24]), ("v", [2, 2, 90, 20])];
    for (file, from, to) in [("one.npz", 0, 40), ("two.npz", 40, 90)] {
        let cut = shapes.map(|(name, shape)| (name.to_owned(), rows(&filled(name, &shape), from, to)));
        place.write_map(file, &cut.into_iter().collect());
    }
    let ran = place.run(&format!("run linear --backend {GPU} --quiet --verify -i one.npz -o {GPU}-one.npz"));
    if ran.code == 4 && std::env::var("SUBQUAD_ALLOW_NO_ADAPTER").is_ok_and(|v| v == "1") {
        eprintln!("SKIPPED: {}", ran.err);
        return;
    }
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    for backend in ["cpu", GPU] {
        let run = format!("run linear --backend {backend} --json --verify");
        let first = format!("{run} -i one.npz -o {backend}-one.npz --state-out {backend}-s1.npz");
        let second = format!("{run} -i two.npz -o {backend}-two.npz --state-in {backend}-s1.npz");
        for arguments in [first, format!("{second} --state-out {backend}-s2.npz")] {
            let report = json(&place.done(&arguments));
            assert_eq!((&report["backend"], &report["verified"]), (&backend.into(), &true.into()), "{arguments}");
        }
    }
    for file in ["one", "s1", "two", "s2"] {
        place.done(&format!("diff --tolerance 1e-5 cpu-{file}.npz {GPU}-{file}.npz"));
    }
    // The second piece without the state of the first is something else.
    place.done(&format!("run linear --backend {GPU} --quiet -i two.npz -o fresh.npz"));
    assert_eq!(place.run("diff --tolerance 1e-3 cpu-two.npz fresh.npz").code, 1);

    place.done("sample linear -o half.safetensors --dtype f16 --shape 1,2,70,16 --quiet");
    let ran = place.run(&format!("run linear --backend {GPU} --verify -i half.safetensors -o half.npz"));
    assert_eq!(ran.code, 0, "{ran:?}");
    // Without f16 on the adapter it is stored as f32, and a line says so.
    let dtype = if ran.err.contains("stored as f32") { DType::F32 } else { DType::F16 };
    assert_eq!(place.tensor("half.npz", "o").dtype(), dtype, "{ran:?}");
}
