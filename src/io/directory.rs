//! A directory of `.npy` files, each named after its tensor, and `metadata.json`.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use super::atomic::Staged;
use super::{Entry, Listing, Told, all_different, atomic, metadata, npy, quoted, unread, unwritten, within};
use crate::tensor::{HostTensor, TensorMap};

/// The headers of all arrays, and their files.
pub(super) fn open(path: &Path) -> Told<(Listing, Vec<PathBuf>)> {
    let (mut entries, mut files) = (Vec::new(), Vec::new());
    let metadata = about(path)?;
    for (name, file) in arrays(path)? {
        let (header, _) = array(&file).map_err(|e| within(&name, &e))?;
        entries.push(header.entry(name));
        files.push(file);
    }
    Ok((Listing { format: "npy directory", metadata, entries }, files))
}

/// Reads one array.
pub(super) fn tensor(file: &Path, entry: &Entry) -> Told<HostTensor> {
    let (header, mut reader) = array(file)?;
    header.data(&mut reader, true, entry)
}

pub(super) fn write(path: &Path, tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> Told<Vec<Staged>> {
    check_names(tensors)?;
    let text = metadata::json(metadata)?;
    if !path.is_dir() {
        let whole = atomic::new_directory(path, |dir| {
            for (name, tensor) in tensors.iter() {
                let mut file = File::create_new(dir.join(format!("{name}.npy"))).map_err(unwritten)?;
                npy::write(&mut file, tensor).map_err(|e| within(name, &e))?;
                file.sync_all().map_err(unwritten)?;
            }
            let mut file = File::create_new(dir.join(metadata::FILE)).map_err(unwritten)?;
            file.write_all(&text).and_then(|()| file.sync_all()).map_err(unwritten)
        })?;
        return Ok(vec![whole]);
    }
    let mut staged = Vec::with_capacity(tensors.len() + 1);
    for (name, tensor) in tensors.iter() {
        let file = atomic::file(&path.join(format!("{name}.npy")), |out| npy::write(out, tensor));
        staged.push(file.map_err(|e| within(name, &e))?);
    }
    // Written even if it is empty: metadata of an earlier run would describe other tensors.
    staged.push(atomic::file(&path.join(metadata::FILE), |out| out.write_all(&text).map_err(unwritten))?);
    Ok(staged)
}

/// Names and files of the arrays in a directory, sorted by name.
fn arrays(path: &Path) -> Told<Vec<(String, PathBuf)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).map_err(unread)? {
        let file = entry.map_err(unread)?.path();
        // A folder of that name is no array.
        if !file.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) || file.is_dir() {
            continue;
        }
        match file.file_stem().and_then(|stem| stem.to_str()) {
            Some(name) => out.push((name.to_owned(), file)),
            None => return Err(format!("expected file names in UTF-8, found {}", file.display())),
        }
    }
    if out.is_empty() && !path.join(metadata::FILE).is_file() {
        return Err("expected a directory of .npy files, found none in it".into());
    }
    all_different(out.iter().map(|(name, _)| name.as_str()))?;
    out.sort();
    Ok(out)
}

fn array(file: &Path) -> Told<(npy::Header, BufReader<File>)> {
    // Opening a named pipe would block until another process writes to it.
    if !fs::metadata(file).map_err(unread)?.is_file() {
        return Err(format!("expected a regular file, found something else under {}", file.display()));
    }
    let opened = File::open(file).map_err(unread)?;
    let len = opened.metadata().map_err(unread)?.len();
    let mut reader = BufReader::new(opened);
    Ok((npy::Header::read(&mut reader, len)?, reader))
}

fn about(path: &Path) -> Told<BTreeMap<String, String>> {
    let path = path.join(metadata::FILE);
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    metadata::read(&mut File::open(path).map_err(|e| format!("{}: {}", metadata::FILE, unread(e)))?)
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
