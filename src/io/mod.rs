//! Reads and writes tensor files: `.safetensors`, `.npz` and directories of `.npy`.
//!
//! Files are untrusted. A length claimed by a header is allocated only if the file is known to be that long. Every
//! error is one sentence that names the file, the tensor if there is one, what was expected and what was found. Types
//! that [`DType`](crate::tensor::DType) does not have are converted exactly or with one rounding: bf16 and f64 become
//! f32, i32 and u32 become i64. Writing is atomic: an output is complete or absent.
//!
//! [`open`] reads the headers of a file, and its data on demand; [`read`] loads a file, [`read_only`] some of its tensors,
//! [`inspect`] only its headers. [`write()`] stores tensors, [`write_together`] several files as one,
//! [`write_check`] checks in advance whether writing would work, and [`same_file`] whether two paths
//! are one file.

mod atomic;
mod decode;
mod directory;
mod mapped;
mod metadata;
mod npy;
mod npz;
mod opened;
mod safetensors;
mod source;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::tensor::TensorMap;
use text::{one_line, quoted, shown};

pub use mapped::Mapped;
pub use opened::{Opened, open};
#[cfg(feature = "cli")]
pub(crate) use text::hidden;

/// Selects the tensors to load, by name.
type Wanted<'a> = &'a dyn Fn(&str) -> bool;

/// An error inside this module: the sentence without the path, which the public functions add.
type Told<T> = std::result::Result<T, String>;

/// Largest rank of a tensor, as in numpy.
const MAX_RANK: usize = 64;
/// Largest number of tensors loaded from one file. A [`TensorMap`] is searched linearly, so a header with millions of
/// empty tensors would otherwise take hours.
const MAX_TENSORS: usize = 16_384;

/// Contents of a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TensorFile {
    /// The tensors that were loaded, in file order (for a directory, by name).
    pub tensors: TensorMap,
    /// Tensors that were not requested, of any dtype, in the same order. Empty after [`read`].
    pub others: Vec<Entry>,
    /// Free text by key, for example how the tensors were created.
    pub metadata: BTreeMap<String, String>,
}

/// Contents of the headers of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// `safetensors`, `npz` or `npy directory`.
    pub format: &'static str,
    /// Free text by key.
    pub metadata: BTreeMap<String, String>,
    /// One row per tensor, in the order of the file.
    pub entries: Vec<Entry>,
}

/// The header entry of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name of the tensor.
    pub name: String,
    /// Type of its elements, spelled as in the file: `BF16`, `<f8`.
    pub dtype: String,
    /// Axis lengths.
    pub shape: Vec<u64>,
    /// Bytes of its data, uncompressed.
    pub bytes: u64,
    /// The type of its elements, if it can be read.
    elem: Option<decode::Elem>,
}

impl Entry {
    /// Refuses a tensor whose elements cannot be read.
    fn elem(&self) -> Told<decode::Elem> {
        self.elem.ok_or_else(|| within(&self.name, &decode::unreadable(&self.dtype)))
    }
}

/// Reads every tensor of a file.
///
/// `-` is standard input. A directory holds `.npy` files named after their tensors. The extension selects the format of
/// a file; if it is neither `.safetensors` nor `.npz`, the first bytes decide.
///
/// # Errors
/// [`Error::File`] if the file is missing, of another format, damaged, or holds a tensor of another dtype than f32,
/// f16, bf16, f64, i64, i32, u32, u8 or bool.
pub fn read(path: &Path) -> Result<TensorFile, Error> {
    read_only(path, &|_| true)
}

/// Reads the requested tensors of a file as [`read`] does, and only the headers of the others. These may have any
/// dtype, take no memory, and are skipped if the file can seek. All headers must agree with the length of the file,
/// also those of tensors that were not requested.
///
/// # Errors
/// The errors of [`read`], except that a tensor that was not requested may have any dtype.
pub fn read_only(path: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<TensorFile, Error> {
    open(path)?.load(wanted)
}

/// Lists the tensors of a file of any dtype from its headers alone.
///
/// # Errors
/// [`Error::File`] if the file is missing, of another format, or not as long as its headers say.
pub fn inspect(path: &Path) -> Result<Listing, Error> {
    open(path)?.into_listing()
}

/// Writes tensors and metadata. The path selects the format: `.safetensors`, `.npz`, or a directory of `.npy` files (an
/// existing directory, a path that ends in `/`, or a name without extension). `-` writes safetensors to standard
/// output.
///
/// A file or a new directory appears under its name only when it is complete. In an existing directory each file is
/// replaced atomically, and files with other names stay.
///
/// # Errors
/// [`Error::Usage`] if no format has this extension, otherwise [`Error::File`].
pub fn write(path: &Path, tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    write_together(&[Output { path, tensors, metadata }])
}

/// An output file: its tensors, and where they go.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// Path of the file or directory, as [`write()`] reads it.
    pub path: &'a Path,
    /// The tensors to write.
    pub tensors: &'a TensorMap,
    /// Metadata to write: free text by key.
    pub metadata: &'a BTreeMap<String, String>,
}

/// Writes several outputs as [`write()`] does, all or none: each is complete on the disk before the first gets its name.
///
/// # Errors
/// The errors of [`write()`].
pub fn write_together(outputs: &[Output<'_>]) -> Result<(), Error> {
    let mut staged = Vec::new();
    for Output { path, tensors, metadata } in outputs {
        match Target::of(path)? {
            Target::Stdout => {}
            Target::Safetensors => {
                let fill = |out: &mut std::io::BufWriter<&std::fs::File>| safetensors::write(out, tensors, metadata);
                staged.push(located(path, || atomic::file(path, fill))?);
            }
            Target::Npz => staged.push(located(path, || atomic::file(path, |out| npz::write(out, tensors, metadata)))?),
            Target::Directory => staged.extend(located(path, || directory::write(path, tensors, metadata))?),
        }
    }
    for Output { path, tensors, metadata } in outputs.iter().filter(|output| is_dash(output.path)) {
        located(output_name(path), || {
            let mut out = std::io::BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
            safetensors::write(&mut out, tensors, metadata)?;
            out.flush().map_err(unwritten)
        })?;
    }
    committed(staged)
}

/// Deletes the temporary files of this process; a thread that writes later waits forever. Call it before a signal ends the
/// process.
#[cfg(feature = "cli")]
pub(crate) fn abandon() {
    atomic::abandon();
}

fn committed(staged: Vec<atomic::Staged>) -> Result<(), Error> {
    atomic::commit(staged).map_err(|(path, message)| Error::file(path, one_line(&message)))
}

/// Writes a text file atomically.
///
/// # Errors
/// [`Error::File`].
pub fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    let fill = |out: &mut std::io::BufWriter<&std::fs::File>| out.write_all(text.as_bytes()).map_err(unwritten);
    committed(vec![located(path, || atomic::file(path, fill))?])
}

/// Checks whether [`write()`] could write this path, so that a bad path is refused before hours of work: the extension
/// is known, the directory exists and accepts a new file, and no existing file would block the write.
///
/// # Errors
/// The errors of [`write()`].
pub fn write_check(path: &Path) -> Result<(), Error> {
    let target = Target::of(path)?;
    located(output_name(path), || match target {
        Target::Stdout => Ok(()),
        Target::Safetensors | Target::Npz | Target::Directory => atomic::check(path, target == Target::Directory),
    })
}

/// Checks whether [`write_text`] could write this path.
///
/// # Errors
/// [`Error::File`].
pub fn text_check(path: &Path) -> Result<(), Error> {
    located(path, || atomic::check(path, false))
}

/// Whether two paths are the same file or directory, after resolving links and `..`, even if neither exists yet. `-` is
/// never the same as another path.
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
        // A usage error: the path alone shows it, whatever is on the disk.
        Err(Error::Usage(one_line(&format!(
            "{}: expected an output named *.safetensors or *.npz, a directory (for .npy files) or `-`, found the \
             extension .{}",
            path.display(),
            extension.to_string_lossy()
        ))))
    }
}

/// Whether a path is standard input or output.
pub(crate) fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn input_name(path: &Path) -> &Path {
    if is_dash(path) { Path::new("standard input") } else { path }
}

fn output_name(path: &Path) -> &Path {
    if is_dash(path) { Path::new("standard output") } else { path }
}

/// Adds the path to an error.
fn located<T>(path: &Path, work: impl FnOnce() -> Told<T>) -> Result<T, Error> {
    work().map_err(|message| Error::file(PathBuf::from(path), one_line(&message)))
}

/// Adds the tensor to an error.
fn within(name: &str, message: &str) -> String {
    format!("tensor {}: {message}", quoted(name))
}

/// Number of elements of a shape. Refused if it exceeds u64 or if the rank is too large.
///
/// An axis of length 0 makes the number 0, but the product of the other axes is still checked, because strides use it.
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

/// Axis lengths as usize. Fails only if usize is narrower than 64 bits.
fn dims(shape: &[u64]) -> Told<Vec<usize>> {
    let narrow = |&d: &u64| usize::try_from(d).map_err(|_| format!("axis of length {d} passes this machine's memory"));
    shape.iter().map(narrow).collect()
}

/// Refuses two tensors with the same name, because it is unclear which one is meant.
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

fn unread(e: std::io::Error) -> String {
    format!("cannot be read: {e}")
}

fn unwritten(e: std::io::Error) -> String {
    format!("cannot be written: {e}")
}
