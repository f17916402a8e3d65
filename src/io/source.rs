//! Detects the format of a path, and whether two paths are one file.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Cursor, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::{Told, is_dash, unread};

/// A zip archive is read from its end, so it needs seeking.
pub(super) trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// An opened input.
pub(super) enum Source {
    Directory,
    /// A file and its length.
    Npz(Box<dyn ReadSeek>, u64),
    Safetensors(Bytes<'static>),
}

/// A stream that is read once, from start to end.
pub(super) enum Bytes<'a> {
    /// A file and its length.
    File(Box<dyn ReadSeek + 'a>, u64),
    /// A pipe: its length is unknown, and it cannot seek.
    Pipe(Box<dyn Read + 'a>),
}

impl Bytes<'_> {
    /// The length; unknown for a pipe.
    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Bytes::File(_, len) => Some(*len),
            Bytes::Pipe(_) => None,
        }
    }

    /// Skips `count` bytes and returns how many there were. A file is known to hold them.
    pub(super) fn skip(&mut self, count: u64) -> Told<u64> {
        match self {
            Bytes::File(reader, _) => {
                let by = i64::try_from(count).map_err(|_| format!("cannot be read: {count} bytes to skip"))?;
                reader.seek_relative(by).map_err(unread)?;
                Ok(count)
            }
            Bytes::Pipe(reader) => {
                // `copy` reads in units of this buffer: the capacity of a pipe, eight times the default.
                let mut nowhere = BufWriter::with_capacity(1 << 16, std::io::sink());
                std::io::copy(&mut reader.take(count), &mut nowhere).map_err(unread)
            }
        }
    }
}

impl Read for Bytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Bytes::File(reader, _) => reader.read(out),
            Bytes::Pipe(reader) => reader.read(out),
        }
    }
}

const SINGLE_NPY: &str = "expected tensors with names, found a single .npy array, which has none: put it into a \
                          directory as NAME.npy and give the directory";

pub(super) fn open(path: &Path) -> Told<Source> {
    if is_dash(path) {
        return stream(std::io::stdin().lock());
    }
    let about = fs::metadata(path).map_err(unread)?;
    if about.is_dir() {
        return Ok(Source::Directory);
    }
    if has_extension(path, "npy") {
        return Err(SINGLE_NPY.into());
    }
    let mut file = File::open(path).map_err(unread)?;
    if !about.is_file() {
        // A pipe, for example from the shell's <(...): no length, no seeking.
        return stream(file);
    }
    // Metadata of the open file: the path may refer to another file by now.
    let len = file.metadata().map_err(unread)?.len();
    let start = first_bytes(&mut file)?;
    file.seek(SeekFrom::Start(0)).map_err(unread)?;
    let named_npz = has_extension(path, "npz");
    let named_safetensors = has_extension(path, "safetensors");
    let reader = BufReader::new(file);
    if named_npz || (!named_safetensors && is_zip(&start)) {
        return Ok(Source::Npz(Box::new(reader), len));
    }
    refuse_others(&start, named_safetensors)?;
    Ok(Source::Safetensors(Bytes::File(Box::new(reader), len)))
}

/// Reads from a pipe: safetensors as a stream; a zip archive into memory, because its index is at the end.
fn stream(mut reader: impl Read + 'static) -> Told<Source> {
    let mut start = first_bytes(&mut reader)?;
    if is_zip(&start) {
        reader.read_to_end(&mut start).map_err(unread)?;
        let len = start.len() as u64;
        return Ok(Source::Npz(Box::new(Cursor::new(start)), len));
    }
    refuse_others(&start, true)?;
    Ok(Source::Safetensors(Bytes::Pipe(Box::new(BufReader::new(Cursor::new(start).chain(reader))))))
}

fn first_bytes(reader: &mut impl Read) -> Told<Vec<u8>> {
    let mut start = Vec::with_capacity(8);
    reader.take(8).read_to_end(&mut start).map_err(unread)?;
    Ok(start)
}

fn is_zip(start: &[u8]) -> bool {
    // The signature of a zip entry, or the end record of an empty archive.
    start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06")
}

/// Recognises formats other than safetensors. Otherwise they would be reported as a header of enormous length.
fn refuse_others(start: &[u8], expected: bool) -> Told<()> {
    if start.starts_with(b"\x93NUMPY") {
        return Err(SINGLE_NPY.into());
    }
    if is_zip(start) {
        return Err("expected safetensors as the extension says, found a zip archive (named .npz it is read)".into());
    }
    if start.starts_with(b"version ") {
        return Err("expected tensors, found a Git LFS pointer: fetch the file itself with `git lfs pull`".into());
    }
    // A safetensors header above 100 MB is refused, so the upper four bytes of a valid length are 0.
    if !expected && start.len() == 8 && start[4..] != [0; 4] {
        return Err(
            "expected .safetensors, .npz or a directory of .npy files, found neither by name nor by content".into()
        );
    }
    Ok(())
}

/// Adds to an error that the file was read as safetensors only because no other format was recognised.
pub(super) fn guessed(path: &Path, message: String) -> String {
    if is_dash(path) || has_extension(path, "safetensors") {
        return message;
    }
    format!("{message} (read as safetensors, since its name ends in neither .safetensors nor .npz)")
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// See [`super::same_file`].
pub(super) fn same(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) {
        use std::os::unix::fs::MetadataExt;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    full(a) == full(b)
}

/// Resolves links and `..` in the existing part of a path.
fn full(path: &Path) -> PathBuf {
    if let Ok(found) = fs::canonicalize(path) {
        return found;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    // The last component does not exist yet: resolve its parent.
    match (absolute.parent(), absolute.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => full(parent).join(name),
        _ => absolute,
    }
}
