//! A directory of `.npy` files, each named after its tensor, and `metadata.json`.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::{Entry, Listing, MAX_HEADER, METADATA, TensorFile, Told, Wanted, all_different, atomic, few_enough, npy};
use super::{metadata_json, parse_metadata, quoted, unread, unwritten};
use crate::tensor::TensorMap;

pub(super) fn read(path: &Path, wanted: Wanted<'_>) -> Told<TensorFile> {
    let (files, rest): (Vec<_>, Vec<_>) = arrays(path)?.into_iter().partition(|(name, _)| wanted(name));
    few_enough(files.len())?;
    let metadata = metadata(path)?;
    // Check all dtypes first, so that a bad one is refused before gigabytes are read.
    for (name, file) in &files {
        within(name, open(file).and_then(|(header, _)| header.elem()))?;
    }
    let others = entries(rest)?;
    let mut tensors = Vec::with_capacity(files.len());
    for (name, file) in files {
        let tensor = within(&name, open(&file).and_then(|(header, mut reader)| header.data(&mut reader, true)))?;
        tensors.push((name, tensor));
    }
    Ok(TensorFile { tensors: tensors.into_iter().collect(), others, metadata })
}

pub(super) fn inspect(path: &Path) -> Told<Listing> {
    let entries = entries(arrays(path)?)?;
    Ok(Listing { format: "npy directory", metadata: metadata(path)?, entries })
}

fn entries(files: Vec<(String, PathBuf)>) -> Told<Vec<Entry>> {
    let one = |(name, file): (String, PathBuf)| Ok(within(&name, open(&file))?.0.entry(name));
    files.into_iter().map(one).collect()
}

pub(super) fn write(path: &Path, tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> Told<()> {
    check_names(tensors)?;
    let text = metadata_json(metadata)?;
    if !path.is_dir() {
        return atomic::new_directory(path, |dir| {
            for (name, tensor) in tensors.iter() {
                let mut file = File::create_new(dir.join(format!("{name}.npy"))).map_err(unwritten)?;
                within(name, npy::write(&mut file, tensor))?;
                file.sync_all().map_err(unwritten)?;
            }
            let mut file = File::create_new(dir.join(METADATA)).map_err(unwritten)?;
            file.write_all(&text).and_then(|()| file.sync_all()).map_err(unwritten)
        });
    }
    for (name, tensor) in tensors.iter() {
        within(name, atomic::replace(&path.join(format!("{name}.npy")), |out| npy::write(out, tensor)))?;
    }
    // Written even if it is empty: metadata of an earlier run would describe other tensors.
    atomic::replace(&path.join(METADATA), |out| out.write_all(&text).map_err(unwritten))
}

fn within<T>(name: &str, result: Told<T>) -> Told<T> {
    result.map_err(|e| format!("tensor {}: {e}", quoted(name)))
}

/// Names and files of the arrays in a directory, sorted by name.
fn arrays(path: &Path) -> Told<Vec<(String, PathBuf)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).map_err(unread)? {
        let file = entry.map_err(unread)?.path();
        if !file.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) {
            continue;
        }
        match file.file_stem().and_then(|stem| stem.to_str()) {
            Some(name) => out.push((name.to_owned(), file)),
            None => return Err(format!("expected file names in UTF-8, found {}", file.display())),
        }
    }
    if out.is_empty() && !path.join(METADATA).is_file() {
        return Err("expected a directory of .npy files, found none in it".into());
    }
    all_different(out.iter().map(|(name, _)| name.as_str()))?;
    out.sort();
    Ok(out)
}

fn open(file: &Path) -> Told<(npy::Header, BufReader<File>)> {
    // Opening a named pipe would block until another process writes to it.
    if !fs::metadata(file).map_err(unread)?.is_file() {
        return Err(format!("expected a regular file, found something else under {}", file.display()));
    }
    let opened = File::open(file).map_err(unread)?;
    let len = opened.metadata().map_err(unread)?.len();
    let mut reader = BufReader::new(opened);
    Ok((npy::Header::read(&mut reader, len)?, reader))
}

fn metadata(path: &Path) -> Told<BTreeMap<String, String>> {
    let path = path.join(METADATA);
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let named = |e| format!("{METADATA}: {}", unread(e));
    let mut text = Vec::new();
    File::open(path).map_err(named)?.take(MAX_HEADER + 1).read_to_end(&mut text).map_err(named)?;
    parse_metadata(&text)
}

/// A tensor's name becomes a file name. Refuses names that would leave the directory or that some system cannot store.
fn check_names(tensors: &TensorMap) -> Told<()> {
    let mut folded = HashSet::new();
    for (name, _) in tensors.iter() {
        let forbidden = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
        if name.is_empty() || name.starts_with('.') || name.len() > 200 || name.contains(forbidden) {
            return Err(format!(
                "tensor {}: expected a name that a file can have, or an output named *.npz or *.safetensors, found \
                 neither",
                quoted(name)
            ));
        }
        // File systems of macOS and Windows treat both names as the same file.
        if !folded.insert(name.to_lowercase()) {
            return Err(format!(
                "tensor {}: expected names that differ by more than case in a directory of .npy, found two",
                quoted(name)
            ));
        }
    }
    Ok(())
}
