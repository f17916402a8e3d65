//! A file in two steps: its headers, by which a caller can refuse it, then the data of the tensors that are wanted.

use std::fmt;
use std::path::{Path, PathBuf};

use super::source::{self, Bytes, Source};
use super::{Entry, Listing, TensorFile, Told, Wanted, dims, few_enough, input_name, located, within};
use super::{directory, npz, safetensors};
use crate::error::Error;
use crate::tensor::{DType, HostTensor, Shape};

/// A tensor file whose headers were read and whose data was not.
pub struct Opened {
    path: PathBuf,
    listing: Listing,
    body: Body,
}

/// Where the data of a file is.
enum Body {
    /// The file of each entry.
    Directory(Vec<PathBuf>),
    Npz(npz::Archive),
    /// A stream that stands at the start of the data.
    Safetensors(Bytes<'static>),
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Opens a file and reads its headers. `-` is standard input.
///
/// All headers must agree with the length of the file; that of a pipe is known only at its end.
///
/// # Errors
/// [`Error::File`] if the file is missing, of another format, or not as long as its headers say.
pub fn open(path: &Path) -> Result<Opened, Error> {
    located(input_name(path), || {
        let (listing, body) = match source::open(path)? {
            Source::Directory => directory::open(path).map(|(listing, files)| (listing, Body::Directory(files)))?,
            Source::Npz(reader, len) => {
                npz::open(reader, len).map(|(listing, archive)| (listing, Body::Npz(archive)))?
            }
            Source::Safetensors(bytes) => safetensors::open(bytes)
                .map(|(listing, bytes)| (listing, Body::Safetensors(bytes)))
                .map_err(|e| source::guessed(path, e))?,
        };
        Ok(Opened { path: path.to_path_buf(), listing, body })
    })
}

impl Opened {
    /// A stream of safetensors whose header was read.
    #[cfg(test)]
    pub(super) fn stream(listing: Listing, bytes: Bytes<'static>) -> Self {
        Self { path: PathBuf::from("-"), listing, body: Body::Safetensors(bytes) }
    }

    /// What the headers say.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    /// The storage type that the tensor of that name has once it is loaded, and its shape; `None` if the file has no such
    /// tensor.
    ///
    /// # Errors
    /// [`Error::File`] if it is of a dtype that cannot be read.
    pub fn head(&self, name: &str) -> Result<Option<(DType, Shape)>, Error> {
        let Some(entry) = self.listing.entries.iter().find(|entry| entry.name == name) else { return Ok(None) };
        located(input_name(&self.path), || {
            let shape = dims(&entry.shape).map_err(|e| within(name, &e))?;
            Ok(Some((entry.elem()?.dtype(), shape.into())))
        })
    }

    /// Reads the tensors that are wanted. The others take no memory, and are skipped if the file can seek.
    ///
    /// # Errors
    /// [`Error::File`] if a wanted tensor is of another dtype than f32, f16, bf16, f64, i64, i32, u32, u8 or bool, or if its data
    /// is damaged.
    pub fn load(self, wanted: Wanted<'_>) -> Result<TensorFile, Error> {
        let Self { path, listing: Listing { metadata, entries, .. }, mut body } = self;
        located(input_name(&path), || {
            let wanted: Vec<bool> = entries.iter().map(|entry| wanted(&entry.name)).collect();
            // Check all dtypes first, so that a bad one is refused before gigabytes are read.
            entries
                .iter()
                .zip(&wanted)
                .filter(|(_, wanted)| **wanted)
                .try_for_each(|(entry, _)| entry.elem().map(drop))?;
            few_enough(wanted.iter().filter(|wanted| **wanted).count())?;
            let (mut tensors, mut others) = (Vec::new(), Vec::new());
            for (at, (entry, wanted)) in entries.into_iter().zip(wanted).enumerate() {
                let read = body.tensor(at, &entry, wanted).map_err(|e| within(&entry.name, &e));
                match read.map_err(|e| body.explained(&path, e))? {
                    Some(tensor) => tensors.push((entry.name, tensor)),
                    None => others.push(entry),
                }
            }
            body.end().map_err(|e| body.explained(&path, e))?;
            Ok(TensorFile { tensors: tensors.into_iter().collect(), others, metadata })
        })
    }

    /// What the headers say, once the end of a pipe has shown that it is complete.
    pub(super) fn into_listing(self) -> Result<Listing, Error> {
        let format = self.listing.format;
        self.load(&|_| false).map(|file| Listing { format, metadata: file.metadata, entries: file.others })
    }
}

impl Body {
    /// Reads the entry of that number if it is wanted. Entries must be passed in order: a pipe cannot go back.
    fn tensor(&mut self, at: usize, entry: &Entry, wanted: bool) -> Told<Option<HostTensor>> {
        match self {
            Body::Safetensors(bytes) => safetensors::tensor(bytes, entry, wanted),
            _ if !wanted => Ok(None),
            Body::Npz(archive) => archive.tensor(at, entry).map(Some),
            Body::Directory(files) => match files.get(at) {
                Some(file) => directory::tensor(file, entry).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Refuses data behind the last tensor.
    fn end(&mut self) -> Told<()> {
        match self {
            Body::Safetensors(bytes) => safetensors::end(bytes),
            Body::Npz(_) | Body::Directory(_) => Ok(()),
        }
    }

    /// An error of the data, with why the file was read in this format.
    fn explained(&self, path: &Path, message: String) -> String {
        if matches!(self, Body::Safetensors(_)) { source::guessed(path, message) } else { message }
    }
}
