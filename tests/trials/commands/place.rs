//! The folder that lines run in: inputs that are valid, damaged and odd, and what a line changed among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::io;
use subquad::ops::OPS;
use subquad::tensor::{HostTensor, TensorMap};

pub(super) struct Place(tempfile::TempDir);

/// What is below the root, by path: the contents of a file, where a link leads, nothing for a folder.
pub(super) type Snapshot = BTreeMap<PathBuf, Vec<u8>>;

/// Files that every place has, beside a valid one `OP.safetensors` per operator.
pub(super) const INPUTS: [&str; 16] = [
    "linear.npz",
    "softmax",
    "state.safetensors",
    "nan.safetensors",
    "names.npz",
    "cut.safetensors",
    "flipped.npz",
    "empty.safetensors",
    "empty.npz",
    "notes.txt",
    "model.pt",
    "page.npz",
    "single.npy",
    "empty",
    "broken",
    "nowhere.npz",
];

/// A small shape of an operator, that of its valid file.
pub(super) fn case(op: &Op) -> Case {
    let lengths = [("B", 1), ("H", 2), ("N", 8), ("D", 8), ("C", 4), ("S", 4), ("P", 4), ("W", 4), ("K", 4)];
    let known = |letter: &str| op.axes.iter().find(|(own, _)| *own == letter).map(|(own, _)| *own);
    let axes: Vec<_> = lengths.iter().filter_map(|(letter, length)| Some((known(letter)?, *length))).collect();
    let mut case = Case::new("small", &axes);
    case.complete(op);
    case
}

impl Place {
    pub(super) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.work()).unwrap();
        fs::create_dir(place.0.path().join("aside")).unwrap();
        let path = |name: &str| place.work().join(name);
        let write = |name: &str, tensors: &TensorMap| io::write(&path(name), tensors, &BTreeMap::new()).unwrap();
        for op in OPS {
            write(&format!("{}.safetensors", op.name), &random::given(op, &case(op)).unwrap());
        }
        let of = |name: &str| {
            let op = subquad::ops::find(name).unwrap();
            random::given(op, &case(op)).unwrap()
        };
        let mut linear = of("linear");
        write("linear.npz", &linear);
        write("softmax", &of("softmax"));
        let arguments = "run linear --backend cpu -i linear.npz --state-out state.safetensors --quiet";
        let status = super::command().current_dir(place.work()).args(arguments.split(' ')).status().unwrap();
        assert!(status.success());
        let q = linear.get("q").unwrap().clone();
        linear.insert("q", HostTensor::f32(q.shape().clone(), vec![f32::NAN; q.shape().count()]));
        write("nan.safetensors", &linear);
        write("names.npz", &[("a\u{1b}[31m\n\u{202e}é".to_owned(), q)].into_iter().collect());
        let mut bytes = fs::read(path("linear.safetensors")).unwrap();
        bytes.truncate(bytes.len() - 5);
        fs::write(path("cut.safetensors"), bytes).unwrap();
        let mut bytes = fs::read(path("linear.npz")).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 8;
        fs::write(path("flipped.npz"), bytes).unwrap();
        for (name, bytes) in [
            ("empty.safetensors", &b""[..]),
            ("empty.npz", b""),
            ("notes.txt", b"not a tensor\n"),
            ("model.pt", b"\x80\x02}q\x00."),
            ("page.npz", b"<!DOCTYPE html>\n<html>"),
            ("single.npy", &fs::read(path("softmax/q.npy")).unwrap()),
        ] {
            fs::write(path(name), bytes).unwrap();
        }
        fs::create_dir(path("empty")).unwrap();
        fs::create_dir(path("broken")).unwrap();
        fs::write(path("broken/q.npy"), b"\x93NUMPY\x01\x00\xff\xff{").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("absent/file.npz", path("nowhere.npz")).unwrap();
        place
    }

    /// Everything that is watched. Lines can reach it through `..`.
    pub(super) fn root(&self) -> PathBuf {
        self.0.path().join("watched")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.root().join("work")
    }

    /// A file beside what is watched.
    pub(super) fn aside(&self, name: &str) -> PathBuf {
        self.0.path().join("aside").join(name)
    }

    /// A tensor file for standard input.
    pub(super) fn input(&self) -> PathBuf {
        self.work().join("linear.safetensors")
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let (mut found, mut open) = (Snapshot::new(), vec![self.root()]);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                let bytes = if kind.is_symlink() {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                } else if kind.is_dir() {
                    open.push(path.clone());
                    Vec::new()
                } else {
                    fs::read(&path).unwrap()
                };
                found.insert(path.strip_prefix(self.root()).unwrap().to_path_buf(), bytes);
            }
        }
        found
    }

    /// Makes everything as it was before.
    pub(super) fn restore(&self, before: &Snapshot, after: &Snapshot) {
        for name in changes(before, after) {
            let path = self.root().join(&name);
            match before.get(&name) {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None if path.is_dir() => fs::remove_dir_all(path).unwrap(),
                // The file may be gone with its folder.
                None => drop(fs::remove_file(path)),
            }
        }
        assert!(self.snapshot() == *before);
    }
}

/// Paths that differ.
pub(super) fn changes(before: &Snapshot, after: &Snapshot) -> Vec<PathBuf> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}
