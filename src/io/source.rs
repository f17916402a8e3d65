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

/// The refusal of a pickle, old or in a zip archive.
pub(super) const PICKLE: &str = "expected tensors, found a PyTorch pickle: load it with torch.load and save its tensors with \
                                 safetensors.torch.save_file";

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
    let zip = is_zip(&start);
    if !zip {
        refuse_known(&start)?;
    }
    if named_npz || (!named_safetensors && zip) {
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
    refuse_known(&start)?;
    refuse_others(&start, true)?;
    Ok(Source::Safetensors(Bytes::Pipe(Box::new(BufReader::new(Cursor::new(start).chain(reader))))))
}

/// The first bytes, enough to recognise a format by.
fn first_bytes(reader: &mut impl Read) -> Told<Vec<u8>> {
    let mut start = Vec::with_capacity(64);
    reader.take(64).read_to_end(&mut start).map_err(unread)?;
    Ok(start)
}

fn is_zip(start: &[u8]) -> bool {
    // The signature of a zip entry, or the end record of an empty archive.
    start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06")
}

/// Whether the bytes can be the start of a safetensors file: the length of a header below 100 MB, whose upper four bytes
/// are 0, and the start of a JSON object.
fn is_safetensors(start: &[u8]) -> bool {
    matches!(start, [_, _, _, _, 0, 0, 0, 0, b'{', ..])
}

/// Recognises files that people give in place of tensors. Otherwise they would be reported as a header of enormous length.
fn refuse_known(start: &[u8]) -> Told<()> {
    // Other formats begin with bytes that a length can begin with too.
    if is_safetensors(start) {
        return Ok(());
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word.as_bytes()));
    let refusal = match start {
        [b'\x93', b'N', b'U', b'M', b'P', b'Y', ..] => SINGLE_NPY,
        [0x80, 2..=5, ..] => PICKLE,
        [b'G', b'G', b'U', b'F', ..] => {
            "expected tensors, found a GGUF file, whose weights are quantised: take the .safetensors files of the model"
        }
        [0x89, b'H', b'D', b'F', ..] => {
            "expected tensors, found an HDF5 file: read its arrays with h5py and save them with numpy.savez"
        }
        [0x1f, 0x8b, ..] => "expected tensors, found a gzip file: unpack it first",
        _ if begins("version https://git-lfs") => {
            "expected tensors, found a Git LFS pointer: fetch the file itself with `git lfs pull`"
        }
        _ if begins("<!doctype html") || begins("<html") => {
            "expected tensors, found an HTML page: download the file itself, not the page that shows it"
        }
        _ => return Ok(()),
    };
    Err(refusal.into())
}

/// Refuses what is safetensors neither by its name (`expected`) nor by its content.
fn refuse_others(start: &[u8], expected: bool) -> Told<()> {
    if is_zip(start) {
        return Err("expected safetensors as the extension says, found a zip archive (named .npz it is read)".into());
    }
    // A safetensors header above 100 MB is refused, so the upper four bytes of a valid length are 0.
    if !expected && start.get(4..8).is_some_and(|upper| upper != [0; 4]) {
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
