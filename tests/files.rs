//! Tensor files through the public functions: what others wrote is read, what is written is read back, and what is
//! damaged or hostile is refused in one sentence, without a panic and without memory taken on a header's word.
#![cfg(feature = "cli")]

#[path = "files/damage.rs"]
mod damage;
#[path = "files/kinds.rs"]
mod kinds;
#[path = "files/mutation.rs"]
mod mutation;
#[path = "files/reading.rs"]
mod reading;
#[path = "files/writing.rs"]
mod writing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use reading::{peak, read_path, sentence};
use subquad::Error;
use subquad::io::{self, TensorFile};
use subquad::tensor::{HostTensor, TensorMap, Values};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/files").join(name)
}

fn map(tensors: impl IntoIterator<Item = (&'static str, HostTensor)>) -> TensorMap {
    tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

fn text<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Reads and inspects bytes as a file of that name, or as the directory that holds only this array.
fn read_bytes(name: &str, bytes: &[u8]) -> Result<TensorFile, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let path = if name.ends_with(".npy") { path.parent().unwrap() } else { &path };
    read_path(path, bytes.len()).0
}

/// The values that make.py writes.
fn made(n: usize, offset: i64) -> Vec<i64> {
    (0..n as i64).map(|i| i * 7 % 23 - offset).collect()
}

fn floats<const K: usize>(shape: [usize; K]) -> HostTensor {
    let n = shape.iter().product();
    HostTensor::f32(shape, made(n, 11).iter().map(|&x| x as f32 / 4.0).collect())
}

fn halves<const K: usize>(shape: [usize; K]) -> HostTensor {
    floats(shape).cast(subquad::tensor::DType::F16)
}

fn ints<const K: usize>(shape: [usize; K], offset: i64) -> HostTensor {
    HostTensor::new(shape, Values::I64(made(shape.iter().product(), offset)))
}

fn readable() -> Vec<(&'static str, HostTensor)> {
    vec![
        ("f32", floats([2, 3, 5])),
        ("f16", halves([3, 7])),
        ("f64", floats([4, 3])),
        ("i64", ints([5], 11)),
        ("i32", ints([2, 2], 11)),
        ("u32", ints([6], 0)),
        ("scalar", floats([])),
        ("empty", floats([0, 3])),
    ]
}

fn numpy_only() -> Vec<(&'static str, HostTensor)> {
    vec![
        ("big_f4", floats([2, 3])),
        ("big_f2", halves([5])),
        ("big_f8", floats([2, 3])),
        ("big_i8", ints([4], 11)),
        ("big_i4", ints([4], 11)),
        ("big_u4", ints([4], 0)),
        ("fortran", floats([4, 6])),
        ("fortran3", halves([2, 3, 4])),
        ("fortran_big", floats([3, 2])),
        ("fortran_int", ints([3, 2], 11)),
    ]
}

#[test]
fn npz_of_numpy() {
    let expected = map(readable().into_iter().chain(numpy_only()));
    for name in ["numpy.npz", "compressed.npz"] {
        let found = io::read(&data(name)).unwrap();
        assert_eq!(found.tensors, expected, "{name}");
        assert!(found.metadata.is_empty());
        let listing = io::inspect(&data(name)).unwrap();
        assert_eq!(listing.format, "npz");
        assert_eq!(listing.entries.len(), expected.len());
        let row = listing.entries.iter().find(|e| e.name == "big_f8").unwrap();
        assert_eq!((row.dtype.as_str(), row.shape.as_slice(), row.bytes), (">f8", [2, 3].as_slice(), 48));
    }
}

#[test]
fn directory_of_numpy() {
    let mut expected = readable();
    expected.extend(numpy_only());
    expected.extend([("version2", floats([2, 3, 5])), ("version3", floats([2, 3, 5]))]);
    expected.sort_by_key(|(name, _)| *name);
    let found = io::read(&data("numpy")).unwrap();
    assert_eq!(found.tensors, map(expected));
    let listing = io::inspect(&data("numpy")).unwrap();
    assert_eq!(listing.format, "npy directory");
    assert_eq!(listing.entries[0].name, "big_f2");
}

#[test]
fn safetensors_of_hugging_face() {
    let found = io::read(&data("hf.safetensors")).unwrap();
    let expected = map(readable().into_iter().chain([("bf16", floats([2, 5]))]));
    assert_eq!(found.tensors.len(), expected.len());
    for (name, tensor) in expected.iter() {
        assert_eq!(found.tensors.get(name), Some(tensor), "{name}");
    }
    assert_eq!(found.metadata, text([("made_by", "safetensors"), ("text", "two\nlines, \"quoted\", µ")]));
    let listing = io::inspect(&data("hf.safetensors")).unwrap();
    assert_eq!((listing.format, &listing.metadata), ("safetensors", &found.metadata));
    let row = listing.entries.iter().find(|e| e.name == "bf16").unwrap();
    assert_eq!((row.dtype.as_str(), row.shape.as_slice(), row.bytes), ("BF16", [2, 5].as_slice(), 20));
}

/// `inspect` lists what `read` refuses, and `read` says which tensor, which dtype, and what it can read.
#[test]
fn other_dtypes() {
    let listing = io::inspect(&data("refused.safetensors")).unwrap();
    let mut found: Vec<_> = listing.entries.iter().map(|e| (e.name.as_str(), e.dtype.as_str(), e.bytes)).collect();
    found.sort_unstable();
    let expected =
        [("bool", "BOOL", 3), ("c64", "C64", 16), ("f32", "F32", 8), ("f8", "F8_E4M3", 7), ("i16", "I16", 8)];
    assert_eq!(found, expected.into_iter().chain([("u64", "U64", 32), ("u8", "U8", 5)]).collect::<Vec<_>>());
    let message = sentence(&io::read(&data("refused.safetensors")).unwrap_err());
    assert!(message.contains("expected dtype f32, f16, bf16, f64, i64, i32, u32, u8 or bool, found "), "{message}");

    let listing = io::inspect(&data("refused.npz")).unwrap();
    let found: Vec<_> = listing.entries.iter().map(|e| (e.name.as_str(), e.dtype.as_str(), e.bytes)).collect();
    let expected = [
        ("bool", "|b1", 3),
        ("i16", "<i2", 8),
        ("u64", "<u8", 32),
        ("complex", "<c8", 24),
        ("text", "<U3", 24),
        ("bytes", "|S3", 6),
        ("time", "<M8[ns]", 16),
        ("object", "|O", 30),
        ("struct", "[('a', '<f4'), (\"b'[\", '<i8', (2, 3))]", 104),
        ("bf16", "<V2", 6),
    ];
    // The length of a pickle is Python's affair.
    for (found, expected) in found.iter().zip(expected).filter(|(_, e)| e.0 != "object") {
        assert_eq!(*found, expected);
    }
    assert_eq!(found.len(), expected.len());
    let message = sentence(&io::read(&data("refused.npz")).unwrap_err());
    assert!(
        message.ends_with("tensor `i16`: expected dtype f32, f16, bf16, f64, i64, i32, u32, u8 or bool, found <i2")
    );
}

/// Each tensor alone is what it is among all; of the others only the headers are told, whatever their dtype.
#[test]
fn some_tensors() {
    for name in ["hf.safetensors", "numpy.npz", "compressed.npz", "numpy", "refused.safetensors", "refused.npz"] {
        let (path, listing) = (data(name), io::inspect(&data(name)).unwrap());
        let all = io::read(&path).ok();
        for wanted in &listing.entries {
            let found = io::read_only(&path, &|name| name == wanted.name);
            let Ok(found) = found else {
                assert!(all.is_none(), "{name} {}", wanted.name);
                let (dtype, message) = (format!("found {}", wanted.dtype), sentence(&found.unwrap_err()));
                assert!(message.contains(&format!("tensor `{}`: ", wanted.name)), "{message}");
                assert!(message.contains("expected dtype") && message.contains(&dtype), "{message}");
                continue;
            };
            assert_eq!(found.tensors.names(), wanted.name);
            if let Some(all) = &all {
                assert_eq!(found.tensors.get(&wanted.name), all.tensors.get(&wanted.name), "{name}");
            }
            let others: Vec<_> = listing.entries.iter().filter(|entry| entry.name != wanted.name).cloned().collect();
            assert_eq!((found.others, &found.metadata), (others, &listing.metadata), "{name}");
        }
    }
    assert_eq!(io::read_only(&data("refused.safetensors"), &|name| name == "f32").unwrap().others.len(), 6);
}

/// What is not wanted costs no memory, and there may be any number of it.
#[test]
fn a_little_of_much() {
    let dir = tempfile::tempdir().unwrap();
    let few = |name: &str| name == "q" || name == "k";
    let large = HostTensor::zeros([16 << 20], subquad::tensor::DType::F16);
    let much = map([("a", large.clone()), ("q", floats([2, 3])), ("m", large), ("k", halves([5]))]);
    for name in ["a.safetensors", "a.npz", "a"] {
        let path = dir.path().join(name);
        io::write(&path, &much, &text([])).unwrap();
        let (found, most) = peak(|| io::read_only(&path, &few).unwrap());
        assert!(most <= 2 << 20, "{name}: {most} bytes");
        assert_eq!((found.tensors.len(), found.others.len()), (2, 2));
        assert_eq!(found.tensors.get("q"), Some(&floats([2, 3])));
        assert_eq!(found.tensors.get("k"), Some(&halves([5])));
    }
    let entries: Vec<_> = (0..20_000)
        .map(|i| format!(r#""{i}":{{"dtype":"F8_E5M2","shape":[1],"data_offsets":[{},{}]}}"#, 4 + i, 5 + i))
        .collect();
    let header = format!(r#"{{"q":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},{}}}"#, entries.join(","));
    let path = dir.path().join("many.safetensors");
    std::fs::write(&path, damage::safetensors(&header, 20_004)).unwrap();
    let found = io::read_only(&path, &few).unwrap();
    assert_eq!((found.tensors.names().as_str(), found.others.len()), ("q", 20_000));
    assert!(sentence(&io::read(&path).unwrap_err()).contains("F8_E5M2"));
}

#[test]
fn wide_floats_round_once() {
    let wide: [f64; 4] = [0.1, f64::MAX, f64::NAN, -1e-320];
    let header = br#"{"x":{"dtype":"F64","shape":[4],"data_offsets":[0,32]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(wide.iter().flat_map(|x| x.to_le_bytes()));
    let found = read_bytes("x.safetensors", &bytes).unwrap().tensors;
    let Values::F32(found) = found.get("x").unwrap().values() else { panic!() };
    assert_eq!(found.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), wide.map(|x| (x as f32).to_bits()));
}

#[test]
fn a_file_is_what_its_content_says() {
    let npz = std::fs::read(data("numpy.npz")).unwrap();
    let hf = std::fs::read(data("hf.safetensors")).unwrap();
    let npy = std::fs::read(data("numpy/f32.npy")).unwrap();
    assert_eq!(read_bytes("weights.bin", &npz).unwrap().tensors.len(), 18);
    assert_eq!(read_bytes("weights", &hf).unwrap().tensors.len(), 9);
    assert_eq!(read_bytes("W.SafeTensors", &hf).unwrap().tensors.len(), 9);
    assert_eq!(read_bytes("W.NPZ", &npz).unwrap().tensors.len(), 18);
    let refused = |name: &str, bytes: &[u8], part: &str| {
        let message = read_bytes(name, bytes).unwrap_err();
        assert!(message.contains(part), "{message}");
    };
    refused("x.safetensors", &npz, "found a zip archive");
    refused("x.npz", &hf, "expected a whole zip archive");
    refused("x.bin", &npy, "as NAME.npy");
    refused("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull");
    refused("notes.txt", b"this is no tensor file\n", "found neither by name nor by content");
    refused("notes.txt", b"", "read as safetensors, since its name ends in neither");
    refused("x.bin", &[2, 0, 0, 0, 0, 0, 0, 0, b'[', b']'], "read as safetensors, since its name ends in neither");
    let message = sentence(&io::read(&data("numpy/f32.npy")).unwrap_err());
    assert!(message.contains("put it into a directory as NAME.npy and give the directory"), "{message}");
    let message = sentence(&io::read(&data("absent.npz")).unwrap_err());
    assert!(message.contains("absent.npz: cannot be read: "), "{message}");
}

/// A pipe has no length and no way back.
#[cfg(unix)]
#[test]
fn pipes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["hf.safetensors", "compressed.npz"] {
        let bytes = std::fs::read(data(name)).unwrap();
        for keep in [bytes.len(), bytes.len() - 1, 40, 0] {
            let pipe = dir.path().join(format!("pipe{keep}"));
            assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            for wanted in ["", "f16"] {
                let wanted = |name: &str| wanted.is_empty() || name == wanted;
                let found = std::thread::scope(|scope| {
                    scope.spawn(|| std::fs::write(&pipe, &bytes[..keep]));
                    io::read_only(&pipe, &wanted)
                });
                if keep == bytes.len() {
                    assert_eq!(found.unwrap(), io::read_only(&data(name), &wanted).unwrap());
                } else {
                    sentence(&found.unwrap_err());
                }
            }
            std::fs::remove_file(&pipe).unwrap();
        }
    }
}

/// Every dtype, through every format, bit for bit.
fn samples() -> TensorMap {
    let special = [0.0f32, -0.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 8.0, -1.5];
    map([
        ("q", HostTensor::f32([2, 3], special.to_vec())),
        ("h", HostTensor::new([3], Values::F16([1.0, -0.0, 65504.0].map(f16::from_f32).to_vec().into()))),
        ("position", HostTensor::new([1], Values::I64(vec![i64::MIN + 3]))),
        ("one", HostTensor::f32([], vec![4.0])),
        ("none", HostTensor::f32([2, 0], vec![])),
        // More than one step of the reader, and not a multiple of it.
        ("long", HostTensor::f32([3, 100_003], (0..300_009).map(|i| i as f32).collect())),
    ])
}

fn same_bits(a: &TensorMap, b: &TensorMap) {
    assert_eq!(a.len(), b.len());
    for (name, tensor) in a.iter() {
        let other = b.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!((tensor.dtype(), tensor.shape()), (other.dtype(), other.shape()), "{name}");
        assert!(tensor.bytes() == other.bytes(), "{name}");
    }
}

#[test]
fn round_trips() {
    let dir = tempfile::tempdir().unwrap();
    let about = text([("operator", "linear"), ("flags", "--rule \"delta\"\n"), ("", "µ")]);
    for name in ["a.safetensors", "a.npz", "a", "b/", "C.SAFETENSORS", "C.Npz"] {
        for (tensors, metadata) in [(samples(), &about), (TensorMap::new(), &BTreeMap::new())] {
            let path = dir.path().join(name);
            io::write_check(&path).unwrap();
            io::write(&path, &tensors, metadata).unwrap();
            let found = io::read(&path).unwrap();
            assert_eq!(&found.metadata, metadata, "{name}");
            if !tensors.is_empty() || !path.is_dir() {
                same_bits(&tensors, &found.tensors);
            }
            let listing = io::inspect(&path).unwrap();
            assert_eq!(listing.entries.len(), found.tensors.len());
            assert_eq!(listing.metadata, found.metadata);
        }
    }
    // No clock and no chance in them: the same tensors give the same file.
    for name in ["x.safetensors", "x.npz"] {
        let path = dir.path().join(name);
        io::write(&path, &samples(), &about).unwrap();
        let first = std::fs::read(&path).unwrap();
        io::write(&path, &samples(), &about).unwrap();
        assert!(first == std::fs::read(&path).unwrap());
    }
}
