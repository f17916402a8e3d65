//! Damaged files: each is tensors or a sentence, all ways of reading it agree, and memory stays in proportion
//! (`files/reading.rs` checks all of it). A valid file is changed in one to four places: a bit, a byte, a word, a cut, bytes
//! left out, repeated or added. Half of the archives and headers are made whole again around the damage, so that it is not
//! always the checksum or the length that shows it.

use std::io::{Cursor, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::dice::Dice;
use crate::reading::{agrees_with_the_crate, read_path};
use crate::{count, quick, times, trial};

/// Damaged files of each format, at most.
const FILES: usize = 50_000;

/// How long a plain run tries each format.
const TIME: Duration = Duration::from_secs(10);
const QUICK_TIME: Duration = Duration::from_secs(1);

type Try = fn(&mut Dice, &Path, &Seeds) -> (bool, usize);

pub(crate) fn trials() -> Vec<Trial> {
    let formats: [(&str, Try); 4] =
        [("safetensors", safetensors), ("npz", npz), ("directory", directory), ("metadata", metadata)];
    let one = |(name, format): (&'static str, Try)| trial(&format!("readers::{name}"), move || damage(name, format));
    formats.into_iter().map(one).collect()
}

fn damage(name: &str, format: Try) {
    let seeds = Seeds::new();
    let begun = Instant::now();
    let (mut taken, mut refused, mut most) = (0, 0, 0);
    for run in 0..count(FILES) {
        if times().is_none() && begun.elapsed() > if quick() { QUICK_TIME } else { TIME } {
            break;
        }
        // Each file has its own stream, so that one alone can be made again.
        let mut dice = Dice::of(name, run);
        let tried = catch_unwind(AssertUnwindSafe(|| format(&mut dice, seeds.place.path(), &seeds)));
        let (read, memory) = match tried {
            Ok(tried) => tried,
            Err(panic) => {
                println!("readers::{name}: file {run} remains in {}", seeds.place.keep().display());
                resume_unwind(panic)
            }
        };
        if read {
            taken += 1;
        } else {
            refused += 1;
            most = most.max(memory);
        }
    }
    let (seconds, most) = (begun.elapsed().as_secs(), most >> 10);
    println!("readers::{name}: {taken} read, {refused} refused with at most {most} KiB of memory, in {seconds} s");
    assert!(taken > 0 && refused > 0);
}

/// Valid files, and a place for the damaged one.
struct Seeds {
    place: tempfile::TempDir,
    safetensors: Vec<Vec<u8>>,
    npz: Vec<Vec<u8>>,
    arrays: Vec<Vec<u8>>,
    metadata: Vec<Vec<u8>>,
}

impl Seeds {
    fn new() -> Self {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/files");
        let read = |name: &str| std::fs::read(data.join(name)).unwrap();
        let arrays = std::fs::read_dir(data.join("numpy")).unwrap().map(|entry| entry.unwrap().path());
        let mut arrays: Vec<PathBuf> = arrays.collect();
        // The system lists them in any order.
        arrays.sort();
        let metadata = [
            "{}",
            r#"{"operator": "linear", "flags": "--rule \"delta\" --norm-eps 1e-6\n", "layout": "bhnd", "\u00b5": "\u00e9"}"#,
            r#"{"a": [1, 2.5e3, {"b": null, "c": [true, false]}], "d": "\ud83d\ude00\t\/", "": -0.0}"#,
        ];
        Self {
            place: tempfile::tempdir().unwrap(),
            safetensors: ["hf.safetensors", "refused.safetensors"].map(read).to_vec(),
            npz: ["numpy.npz", "compressed.npz", "refused.npz"].map(read).to_vec(),
            arrays: arrays.iter().map(|path| std::fs::read(path).unwrap()).collect(),
            metadata: metadata.map(|text| text.as_bytes().to_vec()).to_vec(),
        }
    }
}

/// Writes bytes and reads them: whether they are tensors, and the memory that it took.
fn tried(path: &Path, bytes: &[u8]) -> (bool, usize) {
    std::fs::write(path, bytes).unwrap();
    let (found, most) = read_path(path, bytes.len());
    (found.is_ok(), most)
}

fn safetensors(dice: &mut Dice, place: &Path, seeds: &Seeds) -> (bool, usize) {
    let mut bytes = dice.one(&seeds.safetensors).clone();
    if dice.once_in(2) {
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = bytes[8..data].to_vec();
        edit(dice, &mut header);
        bytes = with_header(&header, &bytes[data..]);
    } else {
        edit(dice, &mut bytes);
    }
    let path = place.join("x.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let (found, most) = read_path(&path, bytes.len());
    agrees_with_the_crate(&bytes, &found);
    (found.is_ok(), most)
}

fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

fn npz(dice: &mut Dice, place: &Path, seeds: &Seeds) -> (bool, usize) {
    let mut bytes;
    if dice.once_in(2) {
        bytes = dice.one(&seeds.npz).clone();
        edit(dice, &mut bytes);
    } else {
        let mut array = dice.one(&seeds.arrays).clone();
        edit(dice, &mut array);
        let whole = dice.one(&seeds.arrays).clone();
        bytes = zipped(dice, &[("k.npy", &whole), ("q.npy", &array)]);
    }
    tried(&place.join("x.npz"), &bytes)
}

fn zipped(dice: &mut Dice, entries: &[(&str, &[u8])]) -> Vec<u8> {
    let method = *dice.one(&[CompressionMethod::Stored, CompressionMethod::Deflated]);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn directory(dice: &mut Dice, place: &Path, seeds: &Seeds) -> (bool, usize) {
    let mut files: Vec<(&str, Vec<u8>)> =
        ["q.npy", "k.npy", "v.npy"].into_iter().map(|name| (name, dice.one(&seeds.arrays).clone())).collect();
    files.push(("metadata.json", dice.one(&seeds.metadata).clone()));
    for _ in 0..1 + dice.below(2) {
        let at = dice.below(files.len());
        edit(dice, &mut files[at].1);
    }
    if dice.once_in(4) {
        files.swap_remove(dice.below(4));
    }
    folder(place, &files)
}

/// Reads the directory of these files.
fn folder(place: &Path, files: &[(&str, Vec<u8>)]) -> (bool, usize) {
    let path = place.join("d");
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    for (name, bytes) in files {
        std::fs::write(path.join(name), bytes).unwrap();
    }
    let (found, most) = read_path(&path, files.iter().map(|(_, bytes)| bytes.len()).sum());
    (found.is_ok(), most)
}

/// Metadata of each format, around tensors that are whole.
fn metadata(dice: &mut Dice, place: &Path, seeds: &Seeds) -> (bool, usize) {
    let mut text = dice.one(&seeds.metadata).clone();
    edit(dice, &mut text);
    let array = dice.one(&seeds.arrays).clone();
    match dice.below(3) {
        0 => folder(place, &[("q.npy", array), ("metadata.json", text)]),
        1 => {
            let bytes = zipped(dice, &[("q.npy", &array), ("metadata.json", &text)]);
            tried(&place.join("x.npz"), &bytes)
        }
        _ => {
            let tensor = br#","q":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
            let header = [br#"{"__metadata__":"#, &text[..], tensor].concat();
            tried(&place.join("x.safetensors"), &with_header(&header, &[1; 8]))
        }
    }
}

/// Changes the bytes in one to four places.
fn edit(dice: &mut Dice, bytes: &mut Vec<u8>) {
    const WORDS: [u32; 8] = [0, 1, 7, 8, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX];
    const TOKENS: [&str; 20] = [
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "\"",
        "'",
        ",",
        ":",
        "9",
        "-",
        "e",
        "0",
        "None",
        "null",
        "18446744073709551615",
        "PK\x01\x02",
        "\\ud800",
        "é",
    ];
    for _ in 0..1 + dice.below(4) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        let at = dice.below(len);
        let end = |most: usize, dice: &mut Dice| (at + 1 + dice.below(most)).min(len);
        match dice.below(16) {
            0..4 => bytes[at] = dice.below(256) as u8,
            4..8 => bytes[at] ^= 1 << dice.below(8),
            8 | 9 => {
                let end = (at + 4).min(len);
                bytes[at..end].copy_from_slice(&dice.one(&WORDS).to_le_bytes()[..end - at]);
            }
            10 => bytes.truncate(at),
            11 => drop(bytes.drain(at..end(40, dice))),
            12 | 13 => {
                let again = bytes[at..end(80, dice)].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let token = dice.one(&TOKENS).bytes();
                bytes.splice(at..at, token);
            }
        }
    }
}
