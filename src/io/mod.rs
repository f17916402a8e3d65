//! Tensor files to and from host memory: `.safetensors`, `.npz` and directories of `.npy`.
//!
//! Files are untrusted. No length that a header claims is allocated before the file has shown that it is that long,
//! and every refusal is one sentence that names the file, the tensor where there is one, what was expected and what
//! was found. Reading converts what has no place in [`DType`](crate::tensor::DType) losslessly or with one rounding:
//! bf16 and f64 become f32, i32 and u32 become i64. Writing is atomic: an output is whole or it is not there.
//!
//! [`read`] loads a file, [`read_only`] some of it, [`inspect`] reads only its headers, [`write()`] stores tensors,
//! [`write_check`] tells early whether that would work, and [`same_file`] whether two paths are one file.

mod atomic;
mod decode;
mod directory;
mod npy;
mod npz;
mod safetensors;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::tensor::TensorMap;
use source::Source;

/// Which tensors to load, by name.
type Wanted<'a> = &'a dyn Fn(&str) -> bool;

/// Inside this module a refusal is its sentence; the path is put in front at the boundary.
type Told<T> = std::result::Result<T, String>;

/// Most axes of a tensor, as in numpy.
const MAX_RANK: usize = 64;
/// Most tensors that are loaded from one file. A [`TensorMap`] is searched name by name, so a header that claims
/// millions of empty tensors would otherwise cost hours.
const MAX_TENSORS: usize = 16_384;
/// Longest metadata read or written, as in the safetensors format.
const MAX_HEADER: u64 = 100_000_000;
/// Name of the file, or of the zip entry, that carries metadata beside `.npy` arrays.
const METADATA: &str = "metadata.json";

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TensorFile {
    /// The tensors read, in the order of the file (of their names, for a directory).
    pub tensors: TensorMap,
    /// Those that were not asked for, of any dtype, in the same order. [`read`] leaves none.
    pub others: Vec<Entry>,
    /// Free text by key: how the tensors were made.
    pub metadata: BTreeMap<String, String>,
}

/// What the headers of a file say.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// `safetensors`, `npz` or `npy directory`.
    pub format: &'static str,
    /// Free text by key.
    pub metadata: BTreeMap<String, String>,
    /// One row per tensor, in the order of the file.
    pub entries: Vec<Entry>,
}

/// What the header says of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name of the tensor.
    pub name: String,
    /// Type of its elements as the file spells it: `BF16`, `<f8`.
    pub dtype: String,
    /// Axis lengths.
    pub shape: Vec<u64>,
    /// Bytes of its data, uncompressed.
    pub bytes: u64,
}

/// Reads every tensor of a file.
///
/// `-` is standard input, a directory is one of `.npy` files named after their tensors, and a file is what its
/// extension says; where that is neither `.safetensors` nor `.npz`, its first bytes decide.
///
/// # Errors
/// [`Error::File`] if the file is not there, not of these formats, damaged, or holds a tensor of another dtype than
/// f32, f16, bf16, f64, i64, i32 or u32.
pub fn read(path: &Path) -> Result<TensorFile, Error> {
    read_only(path, &|_| true)
}

/// Reads the tensors of a file whose names are wanted, as [`read`] does, and only the headers of the others: those may
/// have any dtype, cost no memory, and are skipped where the file can be sought in. All headers must agree with the
/// length of the file, whether their tensors are wanted or not.
///
/// # Errors
/// Those of [`read`], except that a tensor that is not wanted may have any dtype.
pub fn read_only(path: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<TensorFile, Error> {
    located(input_name(path), || match source::open(path)? {
        Source::Directory => directory::read(path, wanted),
        Source::Npz(reader, len) => npz::read(reader, len, wanted),
        Source::Safetensors(bytes) => safetensors::read(bytes, wanted).map_err(|e| source::guessed(path, e)),
    })
}

/// Lists the tensors of a file of any dtype from its headers alone.
///
/// # Errors
/// [`Error::File`] if the file is not there, not of these formats, or not as long as its headers say.
pub fn inspect(path: &Path) -> Result<Listing, Error> {
    located(input_name(path), || match source::open(path)? {
        Source::Directory => directory::inspect(path),
        Source::Npz(reader, len) => npz::inspect(reader, len),
        Source::Safetensors(bytes) => safetensors::inspect(bytes).map_err(|e| source::guessed(path, e)),
    })
}

/// Writes tensors and metadata in the format that the path names: `.safetensors`, `.npz`, or a directory of `.npy`
/// files (an existing directory, a path that ends in `/`, or a name without extension). `-` is standard output, as
/// safetensors.
///
/// A file appears under its name only when it is whole. So does a new directory; in an existing one each file is
/// replaced whole, and files of other names stay.
///
/// # Errors
/// [`Error::Usage`] if the extension is none that can be written, otherwise [`Error::File`].
pub fn write(path: &Path, tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    let target = Target::of(path)?;
    located(output_name(path), || match target {
        Target::Stdout => {
            let mut out = std::io::BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
            safetensors::write(&mut out, tensors, metadata)?;
            out.flush().map_err(unwritten)
        }
        Target::Safetensors => atomic::replace(path, |out| safetensors::write(out, tensors, metadata)),
        Target::Npz => atomic::replace(path, |out| npz::write(out, tensors, metadata)),
        Target::Directory => directory::write(path, tensors, metadata),
    })
}

/// Writes a text file, whole or not at all.
///
/// # Errors
/// [`Error::File`].
pub fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    atomic::replace(path, |out| out.write_all(text.as_bytes()).map_err(unwritten)).map_err(|e| Error::file(path, e))
}

/// Whether [`write()`] could write this path, so that it is refused before hours of work: the extension is known, the
/// directory exists and takes a new file, and nothing is there that would not be replaced.
///
/// # Errors
/// Those of [`write()`].
pub fn write_check(path: &Path) -> Result<(), Error> {
    let target = Target::of(path)?;
    located(output_name(path), || match target {
        Target::Stdout => Ok(()),
        Target::Safetensors | Target::Npz | Target::Directory => atomic::check(path, target == Target::Directory),
    })
}

/// Whether [`write_text`] could write this path.
///
/// # Errors
/// [`Error::File`].
pub fn text_check(path: &Path) -> Result<(), Error> {
    located(path, || atomic::check(path, false))
}

/// Whether two paths are the same file or directory, however they are spelled and through whichever links; also when
/// neither is there yet. `-` is never the same as anything.
pub fn same_file(a: &Path, b: &Path) -> bool {
    !is_dash(a) && !is_dash(b) && source::same(a, b)
}

/// Formats that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Stdout,
    Safetensors,
    Npz,
    Directory,
}

impl Target {
    fn of(path: &Path) -> Result<Self, Error> {
        if is_dash(path) {
            return Ok(Target::Stdout);
        }
        let slash = path.as_os_str().as_encoded_bytes().last().is_some_and(|&b| std::path::is_separator(b.into()));
        if slash || path.is_dir() {
            return Ok(Target::Directory);
        }
        let Some(extension) = path.extension() else {
            return Ok(Target::Directory);
        };
        if extension.eq_ignore_ascii_case("safetensors") {
            return Ok(Target::Safetensors);
        }
        if extension.eq_ignore_ascii_case("npz") {
            return Ok(Target::Npz);
        }
        // Wrong by the command line alone, whatever the disk holds.
        Err(Error::Usage(one_line(format!(
            "{}: expected an output named *.safetensors or *.npz, a directory (for .npy files) or `-`, found the \
             extension .{}",
            path.display(),
            extension.to_string_lossy()
        ))))
    }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn input_name(path: &Path) -> &Path {
    if is_dash(path) { Path::new("standard input") } else { path }
}

fn output_name(path: &Path) -> &Path {
    if is_dash(path) { Path::new("standard output") } else { path }
}

/// Puts the path before the sentence of a refusal.
fn located<T>(path: &Path, work: impl FnOnce() -> Told<T>) -> Result<T, Error> {
    work().map_err(|message| Error::file(PathBuf::from(path), one_line(message)))
}

/// Messages quote names and parser complaints that a hostile file chose: keep them on one line and readable.
fn one_line(message: String) -> String {
    const MOST: usize = 600;
    let mut out = String::new();
    for (i, c) in message.chars().enumerate() {
        if i == MOST {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A tensor's name for a message, shortened.
fn quoted(name: &str) -> String {
    const MOST: usize = 80;
    match name.char_indices().nth(MOST) {
        Some((at, _)) => format!("`{}…`", &name[..at]),
        None => format!("`{name}`"),
    }
}

/// Axis lengths for a message.
fn shown<T: std::fmt::Display>(shape: &[T]) -> String {
    let axes: Vec<String> = shape.iter().take(MAX_RANK).map(T::to_string).collect();
    format!("[{}{}]", axes.join(", "), if shape.len() > MAX_RANK { ", …" } else { "" })
}

/// Number of elements of a shape, refused where it passes u64 or has more axes than anything real.
///
/// An axis of length 0 makes the number 0 but does not excuse the others: their product is what strides are made of.
fn elements(shape: &[u64]) -> Told<u64> {
    if shape.len() > MAX_RANK {
        return Err(format!("expected at most {MAX_RANK} axes, found {}", shape.len()));
    }
    let rest = shape.iter().filter(|&&d| d != 0).try_fold(1u64, |n, &d| n.checked_mul(d));
    match rest {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(n) => Ok(n),
        None => Err(format!("expected a shape whose elements can be counted in 64 bits, found {}", shown(shape))),
    }
}

/// Axis lengths as this machine counts; fails only where usize is narrower than 64 bits.
fn dims(shape: &[u64]) -> Told<Vec<usize>> {
    let narrow = |&d: &u64| usize::try_from(d).map_err(|_| format!("axis of length {d} passes this machine's memory"));
    shape.iter().map(narrow).collect()
}

/// Refuses two tensors of one name: which of them was meant cannot be known.
fn all_different<'a>(names: impl Iterator<Item = &'a str>) -> Told<()> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("tensor {}: expected one of that name, found several", quoted(pair[0]))),
        None => Ok(()),
    }
}

fn few_enough(tensors: usize) -> Told<()> {
    if tensors > MAX_TENSORS {
        return Err(format!("expected at most {MAX_TENSORS} tensors, found {tensors}"));
    }
    Ok(())
}

/// Metadata as the JSON object that stands beside `.npy` arrays.
fn metadata_json(metadata: &BTreeMap<String, String>) -> Told<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(metadata).map_err(|e| format!("metadata cannot be written: {e}"))?;
    text.push(b'\n');
    if text.len() as u64 > MAX_HEADER {
        return Err(format!("metadata: expected at most {MAX_HEADER} bytes, found {}", text.len()));
    }
    Ok(text)
}

/// The reverse. Somebody else's `metadata.json` may hold more than text; such values are kept as their JSON.
fn parse_metadata(text: &[u8]) -> Told<BTreeMap<String, String>> {
    if text.len() as u64 > MAX_HEADER {
        return Err(format!("{METADATA}: expected at most {MAX_HEADER} bytes, found more"));
    }
    let parsed: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(|e| format!("{METADATA}: expected a JSON object, found {e}"))?;
    let plain = |value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(parsed.into_iter().map(|(key, value)| (key, plain(value))).collect())
}

fn unread(e: std::io::Error) -> String {
    format!("cannot be read: {e}")
}

fn unwritten(e: std::io::Error) -> String {
    format!("cannot be written: {e}")
}
