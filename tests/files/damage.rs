//! Files that are cut short, contradict themselves or claim what they do not hold, one by one.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

pub(crate) fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

pub(crate) fn npy(dictionary: &str, data: usize) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dictionary.len() as u16).to_le_bytes());
    bytes.extend(dictionary.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

pub(crate) fn zip(method: CompressionMethod, entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A small file of each format: name, bytes.
pub(crate) fn small() -> Vec<(&'static str, Vec<u8>)> {
    let tensors = map([("q", floats([2, 3])), ("h", halves([3])), ("position", ints([1], 0))]);
    let dir = tempfile::tempdir().unwrap();
    let written = |name: &str| {
        let path = dir.path().join(name);
        io::write(&path, &tensors, &text([("operator", "linear")])).unwrap();
        std::fs::read(if path.is_dir() { path.join("q.npy") } else { path }).unwrap()
    };
    let array = written("directory");
    let packed = zip(CompressionMethod::Deflated, &[("q.npy", array.clone()), ("metadata.json", b"{}".to_vec())]);
    vec![
        ("x.safetensors", written("x.safetensors")),
        ("x.npz", written("x.npz")),
        ("packed.npz", packed),
        ("directory/q.npy", array),
    ]
}

#[test]
fn cut_anywhere() {
    for (name, bytes) in small() {
        for end in 0..bytes.len() {
            assert!(read_bytes(name, &bytes[..end]).is_err(), "{name} cut to {end} of {}", bytes.len());
        }
        read_bytes(name, &bytes).unwrap();
    }
}

/// `inspect` reads no data but knows how much there must be.
#[test]
fn cut_data_is_seen_by_inspect() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in small() {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        for end in 0..bytes.len() {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let path = if name.ends_with(".npy") { path.parent().unwrap() } else { &path };
            sentence(&io::inspect(path).unwrap_err());
        }
    }
}

#[test]
fn hostile_safetensors() {
    let entry = |name: &str, dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    let q = || entry("q", "F32", "[2]", 0, 8);
    let max = u64::MAX;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(String, usize, &str)> = vec![
        (two(q(), q()), 8, "tensor `q`: expected one of that name, found several"),
        (
            two(q(), entry("k", "F32", "[1]", 4, 8)),
            8,
            "tensor `k`: expected data from byte 8 on, the end of tensor `q`",
        ),
        (two(q(), entry("k", "F32", "[1]", 12, 16)), 16, "found data_offsets [12, 16]"),
        (format!("{{{}}}", entry("q", "F32", "[1]", 4, 8)), 8, "tensor `q`: expected data from byte 0 on, the start"),
        (format!("{{{}}}", entry("q", "F32", "[3]", 0, 8)), 8, "tensor `q`: expected 12 bytes for F32 [3], found"),
        (format!("{{{}}}", entry("q", "F32", "[2]", 8, 0)), 8, "tensor `q`: expected"),
        (format!("{{{}}}", q()), 7, "truncated: expected 8 bytes of tensor data, found 7"),
        (format!("{{{}}}", q()), 9, "expected 8 bytes of tensor data, found 9"),
        (
            format!("{{{}}}", entry("q", "F32", &format!("[{}]", 1u64 << 58), 0, 1 << 60)),
            8,
            "truncated: expected 1152921504606846976",
        ),
        (format!("{{{}}}", entry("q", "F32", &format!("[{max},{max}]"), 0, 8)), 8, "counted in 64 bits"),
        (format!("{{{}}}", entry("q", "F32", &format!("[{max},{max},0]"), 0, 0)), 0, "counted in 64 bits"),
        (format!("{{{}}}", entry("q", "F32", &format!("[{max}]"), 0, max)), 8, "tensor `q`: expected"),
        (
            format!("{{{}}}", entry("q", "F32", &format!("[{}1]", "1,".repeat(64)), 0, 4)),
            4,
            "at most 64 axes, found 65",
        ),
        (format!("{{{}}}", entry("q", "F4", "[3]", 0, 2)), 2, "tensor `q`: expected 2 bytes for F4 [3]"),
        (format!("{{{}}}", entry("q", "F4", "[4]", 0, 2)), 2, "tensor `q`: expected dtype f32,"),
        (format!("{{{}}}", entry("q", "F31", "[2]", 0, 8)), 8, "tensor `q`: unknown variant `F31`"),
        (format!("{{{}}}", entry("q", "F32", "[-2]", 0, 8)), 8, "tensor `q`: "),
        (format!("{{{}}}", entry("q", "F32", "[NaN]", 0, 8)), 8, "tensor `q`: "),
        (format!("{{{}}}", entry("q", "F32", "[1e400]", 0, 8)), 8, "tensor `q`: "),
        (format!("{{{}}}", entry("q", "F32", "[2.0]", 0, 8)), 8, "tensor `q`: "),
        (format!("{{{}}}", entry("q", "F32", "[18446744073709551616]", 0, 8)), 8, "tensor `q`: "),
        (format!("{{{}}}", entry("q", "F32", &deep, 0, 8)), 8, "tensor `q`: "),
        (format!("{{\"q\":{deep}}}"), 8, "tensor `q`: "),
        (r#"{"q":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.into(), 8, "duplicate field"),
        (r#"{"q":{"dtype":"F32","data_offsets":[0,8]}}"#.into(), 8, "missing field `shape`"),
        (r#"{"q":null}"#.into(), 0, "tensor `q`: "),
        (r#"{"__metadata__":{"a":1}}"#.into(), 0, "expected a string"),
        (r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(), 0, "several metadata `a`"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "several `__metadata__`"),
        ("[]".into(), 0, "expected an object of tensors"),
        ("{}}".into(), 0, "trailing characters"),
        ("".into(), 0, "EOF"),
        ("\u{0}".into(), 0, "expected a JSON header"),
        (format!("{{\"{}\":1}}", "\\n\\u001b[31m".repeat(1000)), 0, "tensor `\\n\\u{1b}[31m"),
    ];
    for (header, data, part) in cases {
        let message = read_bytes("x.safetensors", &safetensors(&header, data)).unwrap_err();
        assert!(message.contains(part), "expected …{part}… found {message}");
    }
    // A length that passes the file, and text that is no UTF-8.
    for claim in [3, 1 << 20, 99_999_999, 100_000_001, 1 << 60, max] {
        let mut bytes = safetensors("{}", 0);
        bytes[..8].copy_from_slice(&claim.to_le_bytes());
        assert!(read_bytes("x.safetensors", &bytes).unwrap_err().contains("header of "));
    }
    let mut bytes = safetensors(&format!("{{{}}}", q()), 8);
    bytes[10] = 0xff;
    read_bytes("x.safetensors", &bytes).unwrap_err();
    // What looks odd and is right.
    let deeper = r#"{"q":{"extra":X,"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.replace('X', &deep);
    let fine = [
        ("{}".to_owned(), 0),
        ("{}   ".into(), 0),
        (r#"{"__metadata__":null}"#.into(), 0),
        (two(entry("k", "F32", "[1]", 8, 12), q()), 12),
        (deeper, 8),
    ];
    for (header, data) in fine {
        read_bytes("x.safetensors", &safetensors(&header, data)).unwrap();
    }
    let many = |n: usize| {
        let entries: Vec<String> = (0..n).map(|i| entry(&i.to_string(), "F32", "[0]", 0, 0)).collect();
        read_bytes("x.safetensors", &safetensors(&format!("{{{}}}", entries.join(",")), 0))
    };
    assert!(many(16_385).unwrap_err().contains("at most 16384 tensors, found 16385"));
}

#[test]
fn hostile_npy() {
    let dictionary = |descr: &str, order: &str, shape: &str| {
        format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")
    };
    let f4 = |shape: &str| dictionary("'<f4'", "False", shape);
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(20_000), close.repeat(20_000));
    let cases: Vec<(String, usize, &str)> = vec![
        (f4("(2,)"), 7, "tensor `q`: truncated: expected 8 bytes of data for <f4 [2], found 7"),
        (f4("(2,)"), 9, "tensor `q`: expected 8 bytes of data for <f4 [2], found 9"),
        (f4("(1152921504606846976,)"), 8, "truncated: expected 4611686018427387904 bytes"),
        (f4("(18446744073709551615,)"), 8, "truncated: expected 73786976294838206460 bytes"),
        (f4("(18446744073709551616,)"), 8, "whole numbers below 2^64"),
        (f4("(4294967296, 4294967296, 2)"), 8, "counted in 64 bits"),
        (f4("(18446744073709551615, 2, 0)"), 0, "counted in 64 bits"),
        (f4(&format!("({})", "1,".repeat(65))), 4, "at most 64 axes, found 65"),
        (f4("(-2,)"), 8, "header: expected a shape of whole numbers"),
        (f4("(2.0,)"), 8, "header: expected `)`"),
        (f4("(,)"), 8, "header: expected a shape"),
        (f4("2"), 8, "header: expected `(`"),
        (f4(&deep("(", ")")), 8, "header: expected a shape"),
        (dictionary("'<f4'", "Maybe", "(2,)"), 8, "header: expected True or False"),
        (
            dictionary("'<i2'", "False", "(2,)"),
            4,
            "expected dtype f32, f16, bf16, f64, i64, i32, u32, u8 or bool, found <i2",
        ),
        (dictionary("'=i2'", "False", "(2,)"), 4, "found =i2"),
        (dictionary("'|f4'", "False", "(2,)"), 8, "found |f4"),
        (dictionary("''", "False", "(2,)"), 8, "expected dtype"),
        (dictionary("'<f99999999999999999999'", "False", "(2,)"), 8, "expected dtype"),
        (dictionary("'<U18446744073709551615'", "False", "(2,)"), 8, "expected dtype"),
        (dictionary("'<f18446744073709551615'", "False", "(2,)"), 8, "truncated"),
        (dictionary("'µ'", "False", "(2,)"), 8, "expected dtype"),
        (dictionary("'<V2'", "False", "(2,)"), 4, "bfloat16"),
        (dictionary(&deep("[", "]"), "False", "(2,)"), 8, "expected dtype"),
        (dictionary(&"[(".repeat(10_000), "False", "(2,)"), 8, "header: expected the end of a list"),
        (f4("(2,)").replace("}", ""), 8, "header: expected"),
        (f4("(2,)").replace("}", "} 1"), 8, "header: expected the end of the header, found 1"),
        (f4("(2,)").replace("descr", "shape"), 8, "header: expected"),
        (f4("(2,)").replace("}", "'shape': (2,)}"), 8, "header: expected each key once, found shape"),
        (f4("(2,)").replace("}", "'more': (2,)}"), 8, "expected the keys descr, fortran_order and shape, found more"),
        ("{}".into(), 8, "expected the keys descr, fortran_order and shape, found fewer"),
        ("".into(), 8, "header: expected `{`"),
        ("{'".into(), 8, "header: expected a quoted string"),
    ];
    for (header, data, part) in cases {
        let message = read_bytes("d/q.npy", &npy(&header, data)).unwrap_err();
        assert!(message.contains(part), "expected …{part}… found {message}");
    }
    for (header, data) in [
        (f4("(2,)"), 8),
        (f4("()"), 4),
        (f4("(2L, 1L)"), 8),
        (f4("(1, 2)").replace(", }", "}"), 8),
        (f4("(1, 2)").replace('\'', "\""), 8),
    ] {
        read_bytes("d/q.npy", &npy(&header, data)).unwrap();
    }
    // Version 2 has a length of four bytes.
    let mut bytes = npy(&f4("(2,)"), 8);
    bytes[6] = 2;
    assert!(read_bytes("d/q.npy", &bytes).unwrap_err().contains("expected a header of at most"));
    bytes[6] = 9;
    assert!(read_bytes("d/q.npy", &bytes).unwrap_err().contains("version 1, 2 or 3, found 9"));
    read_bytes("d/q.npy", b"PK\x03\x04 what is this").unwrap_err();
}

/// The same array under another order and byte order, which only this test writes.
#[test]
fn fortran_order() {
    let header = |order| format!("{{'descr': '>i4', 'fortran_order': {order}, 'shape': (2, 3, 2), }}\n");
    let mut bytes = npy(&header("True"), 0);
    bytes.extend((0..12i32).flat_map(i32::to_be_bytes));
    let found = read_bytes("d/q.npy", &bytes).unwrap().tensors;
    let expected = vec![0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11];
    assert_eq!(found.get("q").unwrap().values(), &Values::I64(expected));
}

#[test]
fn hostile_zip() {
    use CompressionMethod::{Deflated, Stored};
    let array =
        |n: usize, data: usize| npy(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n},), }}\n"), data);
    let refused = |bytes: &[u8], part: &str| {
        let message = read_bytes("x.npz", bytes).unwrap_err();
        assert!(message.contains(part), "expected …{part}… found {message}");
    };
    let patched = |bytes: &[u8], from: &[u8], to: &[u8]| {
        let mut bytes = bytes.to_vec();
        for at in 0..bytes.len() - from.len() {
            if bytes[at..].starts_with(from) {
                bytes[at..at + to.len()].copy_from_slice(to);
            }
        }
        bytes
    };
    // Eight megabytes of ones in a few thousand bytes: read if the header says so, otherwise not.
    let bomb = array(4, 8 << 20);
    assert!(zip(Deflated, &[("q.npy", bomb.clone())]).len() < 100_000);
    refused(&zip(Deflated, &[("q.npy", bomb)]), "tensor `q`: expected 16 bytes of data for <f4 [4], found 8388608");
    refused(
        &zip(Deflated, &[("q.npy", array(1 << 60, 8))]),
        "tensor `q`: truncated: expected 4611686018427387904 bytes",
    );
    refused(&zip(Stored, &[("q.npy", array(1 << 60, 8))]), "tensor `q`: truncated: expected 4611686018427387904 bytes");
    // An index that claims with the header what is not there.
    let honest = array(2, 8);
    let claim = array(1 << 28, 8);
    let sizes = |n: usize| (n as u32).to_le_bytes();
    for (method, part) in
        [(Deflated, "tensor `q`: truncated: expected 1073741824 bytes of data, found 8"), (Stored, "overlapping")]
    {
        let bytes = zip(method, &[("q.npy", claim.clone())]);
        refused(&patched(&bytes, &sizes(claim.len()), &sizes(claim.len() - 8 + (4 << 28))), part);
    }
    let two = zip(Stored, &[("a.npy", honest.clone()), ("b.npy", honest.clone())]);
    refused(&patched(&two, b"b.npy", b"a.npy"), "found several of one");
    let mut damaged = zip(Stored, &[("q.npy", honest.clone())]);
    let at = damaged.windows(8).position(|w| w == [1; 8]).unwrap();
    damaged[at] = 2;
    refused(&damaged, "tensor `q`: ");
    refused(&zip(Stored, &[("readme.txt", b"hello".to_vec())]), "expected a zip archive of .npy arrays, found none");
    refused(&zip(Stored, &[("q.npy", b"hello".to_vec())]), "tensor `q`: expected a .npy array");
    refused(&zip(Stored, &[("metadata.json", b"[".to_vec())]), "metadata.json: expected a JSON object");
    assert!(read_bytes("x.npz", &zip(Stored, &[])).unwrap().tensors.is_empty());
    // Names lead nowhere.
    let names = ["../../q.npy", "/etc/q.npy", "a/../q.npy", "C:\\q.npy"];
    let found = read_bytes("x.npz", &zip(Stored, &names.map(|name| (name, honest.clone())))).unwrap();
    assert_eq!(found.tensors.len(), names.len());

    // Every entry in the index points at the first one's bytes.
    let mut shared = two.clone();
    let second = shared.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    shared[second + 42..second + 46].fill(0);
    refused(&shared, "overlapping");
}
