//! Files that people really have: other formats under a name of ours, types in the order of the machine, folders among the
//! arrays, and text that inflates.

use zip::CompressionMethod::{Deflated, Stored};

use super::damage::{npy, safetensors, zip};
use super::*;

#[track_caller]
fn refused(name: &str, bytes: &[u8], end: &str) {
    let message = read_bytes(name, bytes).unwrap_err();
    assert!(message.ends_with(end), "{name}: {message}");
}

#[test]
fn other_formats_are_said_by_name_with_what_to_do() {
    let torch = "model.pt: expected tensors, found a PyTorch pickle: load it with torch.load and save its tensors with \
                 safetensors.torch.save_file";
    let entries = [("model/data.pkl", b"\x80\x02}".to_vec()), ("model/data/0", vec![0; 16])];
    refused("model.pt", &zip(Stored, &entries), torch);
    refused("model.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", torch);
    let page = "expected tensors, found an HTML page: download the file itself, not the page that shows it";
    for start in ["<!DOCTYPE html>\n<html>", "\n  <!doctype HTML>", "<html lang=en>", "<HTML>", "\u{feff}<html>"] {
        for name in ["x.safetensors", "x.npz", "x"] {
            refused(name, start.as_bytes(), page);
        }
    }
    refused("x.safetensors", b"GGUF\x03\0\0\0\x10\0\0\0", "take the .safetensors files of the model");
    refused("x.bin", b"\x89HDF\r\n\x1a\n\0\0", "read its arrays with h5py and save them with numpy.savez");
    // A time of 0 in a gzip file looks like the upper half of a header's length.
    refused("x.safetensors", b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "found a gzip file: unpack it first");
}

/// The length of a header can begin as a pickle and as a gzip file do.
#[test]
fn a_header_whose_length_looks_like_another_format_is_read() {
    for length in [0x0280, 0x0580, 0x8b1f] {
        let header = format!("{{{}}}", " ".repeat(length - 2));
        read_bytes("x.safetensors", &safetensors(&header, 0)).unwrap();
    }
}

#[test]
fn types_without_an_order_are_in_that_of_the_machine() {
    for (dtype, bytes) in [("f4", 2.5f32.to_ne_bytes().to_vec()), ("i8", 7i64.to_ne_bytes().to_vec())] {
        for form in [dtype.to_owned(), format!("={dtype}")] {
            let mut file = npy(&format!("{{'descr': '{form}', 'fortran_order': False, 'shape': (1,), }}\n"), 0);
            file.extend(&bytes);
            let found = read_bytes("d/q.npy", &file).unwrap().tensors;
            let q = found.get("q").unwrap();
            assert_eq!(q.to_f32(), [if dtype == "f4" { 2.5 } else { 7.0 }], "{form}");
        }
    }
    for dtype in ["f2", "f8", "i4", "u4"] {
        let size = dtype[1..].parse().unwrap();
        read_bytes("d/q.npy", &npy(&format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': (1,)}}"), size))
            .unwrap();
    }
}

#[test]
fn a_folder_named_as_an_array_is_none() {
    let dir = tempfile::tempdir().unwrap();
    io::write(&dir.path().join("d/"), &map([("q", floats([2, 3]))]), &text([])).unwrap();
    std::fs::create_dir(dir.path().join("d/k.npy")).unwrap();
    let found = io::read(&dir.path().join("d")).unwrap();
    assert_eq!(found.tensors.names(), "q");
}

/// Some kilobytes that inflate to more than 16 MiB.
#[test]
fn text_that_inflates_is_limited() {
    let array = || npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", 4);
    let of = |text: String| zip(Deflated, &[("q.npy", array()), ("metadata.json", text.into_bytes())]);
    let most = 16 << 20;
    let long = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npz");
    std::fs::write(&path, of(long(most))).unwrap();
    assert_eq!(io::inspect(&path).unwrap().metadata["a"].len(), most - 8);
    let refuse = |bytes: Vec<u8>, part: &str| {
        assert!(bytes.len() < 1 << 20);
        std::fs::write(&path, bytes).unwrap();
        let (listed, most) = peak(|| io::inspect(&path));
        let message = sentence(&listed.unwrap_err());
        assert!(message.contains(part), "{message}");
        // The text's buffer grows from 16 to 32 MiB, and both are counted.
        assert!(most <= 56 << 20, "{most} bytes");
    };
    refuse(of(long(100 << 20)), "x.npz: metadata.json: expected at most 16777216 bytes, found more");
    let keys: Vec<_> = (0..70_000).map(|i| format!("\"{i}\":\"\"")).collect();
    refuse(of(format!("{{{}}}", keys.join(","))), "found more than 65536 keys of metadata");
    // A list of a million numbers is kept as its text.
    let list = format!("[{}1]", "1, ".repeat(1 << 20));
    std::fs::write(&path, of(format!("{{\"a\": {list}, \"b\": \"\\u00b5\", \"c\": {{\"d\": \"\\\" x\"}} }}"))).unwrap();
    let metadata = io::inspect(&path).unwrap().metadata;
    assert_eq!(metadata["a"], list.replace(' ', ""));
    assert_eq!((metadata["b"].as_str(), metadata["c"].as_str()), ("µ", "{\"d\":\"\\\" x\"}"));
    // Types of half a megabyte each, in forty entries.
    let dtype = format!("[('{}', '<f4')]", "x".repeat(500_000));
    let header = format!("{{'descr': {dtype}, 'fortran_order': False, 'shape': (0,), }}\n");
    let mut array = b"\x93NUMPY\x02\x00".to_vec();
    array.extend((header.len() as u32).to_le_bytes());
    array.extend(header.as_bytes());
    let names: Vec<_> = (0..40).map(|i| format!("{i}.npy")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), array.clone())).collect();
    refuse(zip(Deflated, &entries), "expected names of dtypes of at most 16777216 bytes in all, found more");
}

/// The headers of a file say what its tensors will be, before their data is read.
#[test]
fn headers_come_before_data() {
    for name in ["hf.safetensors", "numpy.npz", "numpy"] {
        let opened = io::open(&data(name)).unwrap();
        let (dtype, shape) = opened.head("f64").unwrap().unwrap();
        assert_eq!((dtype, shape), (subquad::tensor::DType::F32, [4, 3].into()), "{name}");
        assert!(opened.head("absent").unwrap().is_none());
        assert_eq!(*opened.listing(), io::inspect(&data(name)).unwrap());
        let found = opened.load(&|name| name == "i32").unwrap();
        assert_eq!(found, io::read_only(&data(name), &|name| name == "i32").unwrap());
    }
    let opened = io::open(&data("refused.npz")).unwrap();
    let message = sentence(&opened.head("i16").unwrap_err());
    assert!(
        message.ends_with("tensor `i16`: expected dtype f32, f16, bf16, f64, i64, i32, u32, u8 or bool, found <i2")
    );
    // Masks are bytes, whatever a file calls them.
    for (name, tensor) in [("refused.npz", "bool"), ("refused.safetensors", "bool"), ("refused.safetensors", "u8")] {
        let found = io::read_only(&data(name), &|name| name == tensor).unwrap();
        let mask = found.tensors.get(tensor).unwrap();
        assert_eq!(mask.dtype(), subquad::tensor::DType::U8, "{name} {tensor}");
        assert!(mask.bytes().iter().all(|x| *x == 0), "{name} {tensor}");
    }
}

/// A directory is opened again for its data.
#[test]
fn an_array_that_changes_in_between_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d/");
    io::write(&path, &map([("q", floats([2, 3]))]), &text([])).unwrap();
    let opened = io::open(&path).unwrap();
    io::write(&path, &map([("q", floats([3, 2]))]), &text([])).unwrap();
    let message = sentence(&opened.load(&|_| true).unwrap_err());
    assert!(
        message.ends_with("tensor `q`: expected a file that nobody changes while it is read, found another header")
    );
}
