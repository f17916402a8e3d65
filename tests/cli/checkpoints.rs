//! Files that models leave behind: other names, prefixes, masks, and more data than memory.

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::*;

const RUN: &str = "run softmax --backend cpu -o o.safetensors -i in.safetensors";

/// A file of PLAIN, whose output is in `plain.safetensors`, and this file.
#[track_caller]
fn place(tensors: &[(&str, &str)], extra: &[(&str, &[usize])]) -> Place {
    let place = Place::new();
    place.write("plain.npz", PLAIN);
    place.done("run softmax --backend cpu -i plain.npz -o plain.safetensors");
    let mut map: TensorMap = tensors
        .iter()
        .map(|(name, of)| {
            let (_, shape) = PLAIN.iter().find(|(known, _)| known == of).expect("a tensor of PLAIN");
            ((*name).to_owned(), filled(of, shape))
        })
        .collect();
    for (name, shape) in extra {
        map.insert(*name, filled(name, shape));
    }
    place.write_map("in.safetensors", &map);
    place
}

impl Place {
    /// Runs the command, which must give the output of PLAIN.
    #[track_caller]
    fn plain(&self, arguments: &str) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        same(&self.tensor("o.safetensors", "o"), &self.tensor("plain.safetensors", "o"));
        ran
    }
}

#[test]
fn a_tensor_that_would_change_the_result_is_refused_by_name() {
    let own: Vec<_> = PLAIN.iter().map(|(name, _)| (*name, *name)).collect();
    let low = RUN.replace("run softmax", "run linformer --rank 3");
    for name in ["mask", "attn_mask", "bias", "cu_seqlens", "seq_idx", "lengths", "sink", "initial_state"] {
        let place = place(&own, &[(name, &[2])]);
        let why = "would change the result, and linformer does not read it";
        let advice = "remove it from the file, or rename it if it is something else";
        place.refuse(&low, 1, &format!("linformer: tensor `{name}`: {why}; {advice}"));
        // Another name is said, and skipped.
        let ran = place.plain(&format!("{RUN} --prefix x. --map q=q --map k=k --map v=v"));
        assert_eq!(ran.err, format!("not used: {name} (tensors of the input that softmax does not read)\n"));
    }
    let place = place(&own, &[("initial_state", &[2])]);
    let sentence = "linear: tensor `initial_state`: would change the result, and linear does not read it; remove it from \
                    the file, and give the state with --state-in";
    place.refuse("run linear --backend cpu -i in.safetensors", 1, sentence);
    // A bias is an input of conv1d.
    place.write("conv.npz", &[("x", &[2, 5]), ("weight", &[2, 3]), ("bias", &[2])]);
    assert_eq!(place.run("run conv1d --backend cpu -i conv.npz").err, "");
}

#[test]
fn tensors_of_other_names_are_mapped() {
    let place = place(&[("query", "q"), ("a.k", "k"), ("b=c", "v")], &[]);
    place.plain(&format!("{RUN} --map q=query --map k=a.k --map v=b=c"));
    place.plain(&format!("{RUN} --prefix a. --map q=query --map v=b=c"));
    let missing = "found none (given: query, a.k, b=c)";
    place.refuse(
        &format!("{RUN} --map q=query --map k=K"),
        1,
        &format!("softmax: --map k=K: expected a tensor `K` in the files, {missing}"),
    );
    place.refuse(
        &format!("{RUN} --prefix a."),
        1,
        "softmax: tensor `q`: expected [B, H, N, D] under the name `a.q`, found none (given: a.k, query, b=c)",
    );
    place.refuse(RUN, 1, &format!("softmax: tensor `q`: expected [B, H, N, D], {missing}"));
}

#[test]
fn a_prefix_holds_for_both_files_and_hides_other_masks() {
    let place = place(&[("l.1.q", "q")], &[("l.0.mask", &[3]), ("mask", &[3])]);
    let kv = PLAIN[1..].iter().map(|(name, shape)| (format!("l.1.{name}"), filled(name, shape))).collect();
    place.write_map("kv.npz", &kv);
    let ran = place.plain(&format!("{RUN} --params kv.npz --prefix l.1."));
    assert_eq!(ran.err, "not used: l.0.mask, mask (tensors of the input that softmax does not read)\n");
    place.write("l.npz", &[("l.1.q", &[6, 4]), ("l.1.k", &[6, 4]), ("l.1.v", &[6, 4]), ("l.1.attn_mask", &[6, 6])]);
    let ran = place.run("run softmax --backend cpu -i l.npz --prefix l.1.");
    assert!(ran.code == 1 && ran.err.starts_with("error: softmax: tensor `attn_mask`: would change"), "{ran:?}");
}

#[test]
fn one_tensor_can_be_two_of_the_operator() {
    let place = Place::new();
    place.write("one.npz", &[("q", &[6, 4]), ("kv", &[6, 4])]);
    let kv = filled("kv", &[6, 4]);
    let all = [("q", filled("q", &[6, 4])), ("k", kv.clone()), ("v", kv)];
    place.write_map("three.npz", &all.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect());
    place.done("run softmax --backend cpu -i one.npz -o a.npz --map k=kv --map v=kv");
    place.done("run softmax --backend cpu -i three.npz -o b.npz");
    same(&place.tensor("a.npz", "o"), &place.tensor("b.npz", "o"));
}

#[test]
fn a_wrong_map_is_usage() {
    let place = Place::new();
    for (flags, sentence) in [
        ("--map q", "expected NAME=TENSOR, found `q`"),
        ("--map =x", "expected NAME=TENSOR, found `=x`"),
        ("--map q=", "expected NAME=TENSOR, found `q=`"),
        (
            "--map o=x",
            "expected a tensor that softmax reads (q, k, v, bias, mask, sink, lengths, cu_seqlens), found `o`",
        ),
        ("--map q=x --map q=y", "`q` is given twice"),
    ] {
        place.refuse(&format!("run softmax -i nowhere.npz {flags}"), 2, &format!("softmax: --map: {sentence}"));
    }
}

/// Three tensors of half a gigabyte each, in a file of some megabytes at most.
fn inflating(place: &Place, shape: &str, elements: usize) {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16).to_le_bytes());
    array.extend(header.as_bytes());
    let zeros = vec![0; 1 << 20];
    let mut one = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    one.start_file("q.npy", options).expect("an entry");
    std::io::Write::write_all(&mut one, &array).expect("bytes");
    for _ in 0..elements * 4 / zeros.len() {
        std::io::Write::write_all(&mut one, &zeros).expect("bytes");
    }
    let mut one = ZipArchive::new(one.finish().expect("an archive")).expect("an archive");
    let mut all = ZipWriter::new(std::fs::File::create(place.path("in.npz")).expect("a file"));
    for name in ["q.npy", "k.npy", "v.npy"] {
        all.raw_copy_file_rename(one.by_index(0).expect("q"), name).expect("an entry");
    }
    all.finish().expect("an archive");
    assert!(std::fs::metadata(place.path("in.npz")).expect("a file").len() < 10 << 20);
}

/// The command within that many KiB of address space.
#[cfg(target_os = "linux")]
fn within(place: &Place, kib: usize, arguments: &str) -> Ran {
    let line = format!("ulimit -v {kib} && exec {} {arguments}", env!("CARGO_BIN_EXE_subquad"));
    let mut command = assert_cmd::Command::new("sh");
    Ran::of(command.current_dir(place.path("")).args(["-c", &line]))
}

/// The headers are enough to refuse a file. `ulimit` counts the program itself too.
#[cfg(target_os = "linux")]
#[test]
fn a_wrong_shape_costs_no_memory() {
    let place = Place::new();
    inflating(&place, "(1, 1, 65536, 2048)", 1 << 27);
    for (arguments, start) in [
        ("run softmax --backend cpu -i in.npz --heads 3", "error: softmax: tensor `q`: expected [N, H*D] or"),
        (
            "run linear --backend cpu -i in.npz --layout bnhd",
            "error: linear: tensor `k`: expected D of at most 1024, found 2048",
        ),
        ("run ramnet --backend cpu -i in.npz", "error: ramnet: tensor `gamma`: expected [B, H, N], found none"),
    ] {
        let ran = within(&place, 200 << 10, arguments);
        assert!(ran.code == 1 && ran.err.starts_with(start), "{arguments}: {ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    }
    // With the data it does not fit.
    assert_ne!(within(&place, 200 << 10, "diff in.npz in.npz").code, 0);
}

/// Some kilobytes of a zip archive that inflate to sixty megabytes of metadata.
#[cfg(target_os = "linux")]
#[test]
fn metadata_that_inflates_costs_no_memory() {
    let place = Place::new();
    let mut archive = ZipWriter::new(std::fs::File::create(place.path("in.npz")).expect("a file"));
    archive.start_file("metadata.json", SimpleFileOptions::default()).expect("an entry");
    let part = "\"a\":[1,1,1,1],".repeat(1 << 16);
    std::io::Write::write_all(&mut archive, b"{").expect("bytes");
    for _ in 0..64 {
        std::io::Write::write_all(&mut archive, part.as_bytes()).expect("bytes");
    }
    archive.finish().expect("an archive");
    for arguments in ["inspect in.npz", "run linear --backend cpu -i in.npz"] {
        let ran = within(&place, 200 << 10, arguments);
        let sentence = "error: in.npz: metadata.json: expected at most 16777216 bytes, found more\n";
        assert_eq!((ran.code, ran.err.as_str()), (1, sentence), "{arguments}");
    }
}

/// A state file is judged by its header too.
#[cfg(target_os = "linux")]
#[test]
fn a_state_of_a_wrong_shape_is_not_read() {
    let place = Place::new();
    place.write("q.npz", &[("q", &[6, 4]), ("k", &[6, 4]), ("v", &[6, 4])]);
    inflating(&place, "(1, 1, 65536, 2048)", 1 << 27);
    std::fs::rename(place.path("in.npz"), place.path("large.npz")).expect("a file");
    let bytes = std::fs::read(place.path("large.npz")).expect("a file");
    let mut archive = ZipArchive::new(std::io::Cursor::new(bytes)).expect("an archive");
    let mut state = ZipWriter::new(std::fs::File::create(place.path("s.npz")).expect("a file"));
    for (at, name) in ["state.npy", "norm.npy"].into_iter().enumerate() {
        state.raw_copy_file_rename(archive.by_index(at).expect("an entry"), name).expect("an entry");
    }
    state.finish().expect("an archive");
    let ran = within(&place, 200 << 10, "run linear --backend cpu -i q.npz --state-in s.npz");
    let sentence =
        "error: linear: tensor `state`: expected f32 [1, 1, 4, 4] in the state file, found f32 [1, 1, 65536, 2048]\n";
    assert_eq!((ran.code, ran.err.as_str()), (1, sentence));
}

/// A name or a value of megabytes is listed in no time, in full with --json alone.
#[test]
fn inspect_cuts_long_cells() {
    let place = Place::new();
    let long = "x".repeat(20 << 20);
    let header =
        format!(r#"{{"__metadata__":{{"a":"{long}"}},"{long}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}}}"#);
    raw(&place.path("in.safetensors"), &header, 0);
    let started = std::time::Instant::now();
    let text = place.done("inspect in.safetensors");
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
    let words: String = text.split_whitespace().collect();
    assert_eq!(words.matches("…(20969520morecharacters)").count(), 2, "{text}");
    assert!(text.len() < 10_000);
    let whole = json(&place.done("inspect in.safetensors --json"));
    assert_eq!((whole["tensors"][0]["name"].as_str(), whole["metadata"]["a"].as_str()), (Some(&*long), Some(&*long)));
}

#[test]
fn odd_heads_are_a_hint_at_another_layout() {
    let place = Place::new();
    let hint = |heads: usize, tokens: usize, of: &str| {
        format!("q is read as H={heads} heads of N={tokens} tokens; if it is {of}, give --layout bnhd\n")
    };
    let err = |shape: &[usize], flags: &str| {
        place.write("in.npz", &[("q", shape), ("k", shape), ("v", shape)]);
        place.run(&format!("run softmax --backend cpu -i in.npz {flags}")).err
    };
    assert_eq!(err(&[1, 40, 4, 3], ""), hint(40, 4, "[B, N, H, D]"));
    assert_eq!(err(&[40, 4, 3], ""), hint(40, 4, "[N, H, D]"));
    for (shape, flags) in [
        (&[1, 40, 4, 3][..], "--layout bhnd"),
        (&[1, 40, 4, 3], "--layout bnhd"),
        (&[1, 40, 4, 3], "--quiet"),
        (&[1, 40, 1, 3], ""),
        (&[1, 4, 40, 3], ""),
        (&[1, 4, 2, 3], ""),
        (&[40, 3], ""),
    ] {
        assert_eq!(err(shape, flags), "", "{shape:?} {flags}");
    }
    let wide = |heads: usize, of: &str| format!("q is read as H={heads} heads of D=512; if it is {of}, give --heads\n");
    assert_eq!(err(&[2, 4, 512], ""), wide(2, "[B, N, H*D]"));
    assert_eq!(err(&[4, 512], ""), wide(1, "[N, H*D]"));
    assert_eq!(err(&[1, 2, 4, 512], ""), "");
    assert_eq!(err(&[2, 4, 512], "--heads 8"), "");
    // A file that says its layout is taken at its word.
    place.done("sample softmax -o s.npz --shape H=40,N=4,D=3");
    assert_eq!(place.run("run softmax --backend cpu -i s.npz").err, "");
}
