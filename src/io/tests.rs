//! Tests that the public functions cannot cover: writers and readers that fail or deliver data slowly. The other tests
//! are in `tests/files.rs`.

use std::io::{Cursor, Error, ErrorKind, Read, Result as IoResult, Seek, SeekFrom, Write};

use super::*;
use crate::tensor::{HostTensor, Values};

fn sample() -> TensorMap {
    let mut map = TensorMap::new();
    map.insert("q", HostTensor::f32([2, 3], (0..6).map(|i| i as f32).collect()));
    map.insert("position", HostTensor::new([1], Values::I64(vec![-7])));
    map
}

fn about() -> BTreeMap<String, String> {
    BTreeMap::from([("operator".to_owned(), "linear".to_owned())])
}

fn left(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_write_that_fails_half_way_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let fail = |out: &mut dyn Write| {
        out.write_all(&vec![1; 3 << 20]).unwrap();
        Err("the disk is full".to_owned())
    };
    assert!(atomic::file(&path, |out| fail(out)).is_err());
    assert!(left(dir.path()).is_empty());

    std::fs::write(&path, b"before").unwrap();
    assert!(atomic::file(&path, |out| fail(out)).is_err());
    assert_eq!(left(dir.path()), ["a.npz"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"before");

    std::fs::remove_file(&path).unwrap();
    let made =
        atomic::new_directory(&dir.path().join("d"), |at| fail(&mut std::fs::File::create(at.join("q")).unwrap()));
    assert!(made.is_err());
    assert!(left(dir.path()).is_empty());
}

/// A writer that accepts a limited number of bytes and counts later attempts.
struct Full(Cursor<Vec<u8>>, usize, usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
        let room = self.1.saturating_sub(self.0.position() as usize);
        if room == 0 {
            self.2 += 1;
            return Err(Error::new(ErrorKind::StorageFull, "no space"));
        }
        self.0.write(&bytes[..room.min(bytes.len())])
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}

impl Seek for Full {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        self.0.seek(to)
    }
}

#[test]
fn a_full_disk_is_an_error_wherever_it_strikes() {
    let whole = |write: fn(&mut Full) -> Told<()>| {
        let mut out = Full(Cursor::default(), usize::MAX, 0);
        write(&mut out).unwrap();
        for room in 0..out.0.get_ref().len() {
            let mut out = Full(Cursor::default(), room, 0);
            let message = write(&mut out).unwrap_err();
            assert!(message.contains("no space"), "{message}");
            // No later write reaches it, not even from a destructor.
            assert_eq!(out.2, 1);
        }
    };
    whole(|out| safetensors::write(out, &sample(), &about()));
    whole(|out| npz::write(out, &sample(), &about()));
    whole(|out| sample().iter().try_for_each(|(_, tensor)| npy::write(out, tensor)));
}

/// A reader that returns one byte at a time, with interruptions.
struct Slow(Cursor<Vec<u8>>, bool);

impl Read for Slow {
    fn read(&mut self, out: &mut [u8]) -> IoResult<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(ErrorKind::Interrupted.into());
        }
        let n = 1.min(out.len());
        self.0.read(&mut out[..n])
    }
}

fn slow(bytes: &[u8]) -> source::Bytes<'static> {
    source::Bytes::Pipe(Box::new(Slow(Cursor::new(bytes.to_vec()), false)))
}

fn file(bytes: &[u8]) -> source::Bytes<'static> {
    source::Bytes::File(Box::new(Cursor::new(bytes.to_vec())), bytes.len() as u64)
}

/// What the headers of a stream say.
fn listing(source: source::Bytes<'static>) -> Told<Listing> {
    opened(source)?.into_listing().map_err(|e| e.to_string())
}

fn loaded(source: source::Bytes<'static>, wanted: Wanted<'_>) -> Told<TensorFile> {
    opened(source)?.load(wanted).map_err(|e| e.to_string())
}

fn opened(source: source::Bytes<'static>) -> Told<Opened> {
    safetensors::open(source).map(|(listing, bytes)| Opened::stream(listing, bytes))
}

#[test]
fn a_pipe_of_any_pace_cut_anywhere() {
    let mut bytes = Vec::new();
    safetensors::write(&mut bytes, &sample(), &about()).unwrap();
    for end in 0..bytes.len() {
        for name in ["q", "position", "neither"] {
            assert!(loaded(slow(&bytes[..end]), &|n| n == name).is_err());
        }
        assert!(loaded(slow(&bytes[..end]), &|_| true).is_err());
        assert!(listing(slow(&bytes[..end])).is_err());
    }
    let found = loaded(slow(&bytes), &|_| true).unwrap();
    assert_eq!(found, loaded(file(&bytes), &|_| true).unwrap());
    assert_eq!(found.metadata, about());
    assert_eq!(found.tensors.get("q"), sample().get("q"));
    assert!(found.others.is_empty());
    let listed = listing(slow(&bytes)).unwrap();
    assert_eq!(listed, listing(file(&bytes)).unwrap());
    for name in ["q", "position", "neither"] {
        let found = loaded(slow(&bytes), &|n| n == name).unwrap();
        assert_eq!(found, loaded(file(&bytes), &|n| n == name).unwrap());
        assert_eq!(found.tensors.get(name), sample().get(name));
        let others: Vec<_> = listed.entries.iter().filter(|e| e.name != name).cloned().collect();
        assert_eq!(found.others, others);
    }
    bytes.push(0);
    for wanted in [true, false] {
        let message = loaded(slow(&bytes), &|_| wanted).unwrap_err();
        assert!(message.ends_with("found 1 more bytes"), "{message}");
        assert!(loaded(file(&bytes), &|_| wanted).is_err());
    }
    assert!(listing(slow(&bytes)).is_err());
}

/// Wider elements are written first, so that each tensor starts on a multiple of its element size.
#[test]
fn elements_are_aligned() {
    let mut map = TensorMap::new();
    map.insert("odd", HostTensor::zeros([3], crate::tensor::DType::F16));
    map.insert("q", HostTensor::f32([1], vec![1.0]));
    map.insert("position", HostTensor::new([1], Values::I64(vec![3])));
    let mut bytes = Vec::new();
    safetensors::write(&mut bytes, &map, &BTreeMap::new()).unwrap();
    let listing = listing(file(&bytes)).unwrap();
    assert_eq!(listing.entries.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["position", "q", "odd"]);
    assert_eq!(bytes[..8], ((bytes.len() as u64 - 8 - 8 - 4 - 6).to_le_bytes()));
    assert!((bytes.len() - 8 - 4 - 6).is_multiple_of(8));
}

#[test]
fn messages_stay_short_and_on_one_line() {
    assert_eq!(one_line("a\nb\u{1b}[0m\u{202e}c"), "a\\nb\\u{1b}[0m\\u{202e}c");
    assert_eq!(one_line(&"µ".repeat(1000)).chars().count(), 601);
    assert_eq!(quoted(&"é".repeat(81)), format!("`{}…`", "é".repeat(80)));
    assert_eq!(shown(&[2, 3]), "[2, 3]");
    assert_eq!(shown::<u64>(&[]), "[]");
}
