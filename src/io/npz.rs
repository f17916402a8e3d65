//! The `.npz` format: a zip archive of `.npy` arrays and metadata.
//!
//! Entries are never unpacked to disk, so their names are harmless. Sizes in the zip index are only claims: an entry is
//! read as far as its `.npy` header requires, into memory that grows with the data that arrives.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::source::{self, ReadSeek};
use super::{Entry, Listing, Told, all_different, metadata, npy, unread, unwritten, within};
use crate::tensor::{HostTensor, TensorMap};

/// An opened archive.
pub(super) struct Archive {
    zip: ZipArchive<Box<dyn ReadSeek>>,
    /// The zip entry of each tensor.
    indices: Vec<usize>,
    /// Bytes of the file.
    len: u64,
}

/// The headers of all arrays, and the archive to read their data from.
pub(super) fn open(reader: Box<dyn ReadSeek>, len: u64) -> Told<(Listing, Archive)> {
    let (mut archive, names, about) = Archive::open(reader, len)?;
    let metadata = about.map_or_else(|| Ok(BTreeMap::new()), |index| archive.metadata(index))?;
    let mut entries = Vec::with_capacity(names.len());
    let mut letters = 0;
    for (at, name) in names.into_iter().enumerate() {
        let header = archive.array(at, |header, _, _| Ok(header)).map_err(|e| within(&name, &e))?;
        let entry = header.entry(name);
        // A type is text of any length, and an entry of a few bytes can inflate to much of it.
        letters += entry.dtype.len() as u64;
        if letters > metadata::MAX_BYTES {
            let most = metadata::MAX_BYTES;
            return Err(format!("expected names of dtypes of at most {most} bytes in all, found more"));
        }
        entries.push(entry);
    }
    Ok((Listing { format: "npz", metadata, entries }, archive))
}

/// Writes uncompressed entries, as `numpy.savez` does: random-looking data does not compress.
pub(super) fn write<W: Write + Seek>(
    out: &mut W,
    tensors: &TensorMap,
    metadata: &BTreeMap<String, String>,
) -> Told<()> {
    let mut zip = ZipWriter::new(Fused { out, at: 0, failed: false });
    fill(&mut zip, tensors, metadata)?;
    zip.finish().map(drop).map_err(unzipped)
}

/// A writer that reports only its first failure. A [`ZipWriter`] that is dropped after a failure still tries to finish,
/// and prints a second error to stderr. The caller has the first error already, so later writes are discarded.
struct Fused<W> {
    out: W,
    /// Position of the next byte, also after a failure, because the zip writer asserts that positions are plausible.
    at: u64,
    failed: bool,
}

impl<W> Fused<W> {
    fn run<T>(&mut self, otherwise: T, work: impl FnOnce(&mut W) -> std::io::Result<T>) -> std::io::Result<T> {
        if self.failed {
            return Ok(otherwise);
        }
        let result = work(&mut self.out);
        self.failed = matches!(&result, Err(e) if e.kind() != std::io::ErrorKind::Interrupted);
        result
    }
}

impl<W: Write> Write for Fused<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.run(bytes.len(), |out| out.write(bytes))?;
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.run((), W::flush)
    }
}

impl<W: Seek> Seek for Fused<W> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let otherwise = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) | SeekFrom::End(by) => self.at.saturating_add_signed(by),
        };
        self.at = self.run(otherwise, |out| out.seek(to))?;
        Ok(self.at)
    }
}

fn fill<W: Write + Seek>(zip: &mut ZipWriter<W>, tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> Told<()> {
    let options = |bytes: usize| {
        // Entries near 4 GiB need the zip64 form, which must be chosen before writing. No time is stored, so that equal
        // tensors give equal files.
        SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(bytes as u64 >= u64::from(u32::MAX) - (1 << 20))
            .unix_permissions(0o644)
            .last_modified_time(zip::DateTime::default())
    };
    for (name, tensor) in tensors.iter() {
        zip.start_file(format!("{name}.npy"), options(tensor.bytes().len())).map_err(unzipped)?;
        npy::write(zip, tensor).map_err(|e| within(name, &e))?;
    }
    if !metadata.is_empty() {
        let text = metadata::json(metadata)?;
        zip.start_file(metadata::FILE, options(text.len())).map_err(unzipped)?;
        zip.write_all(&text).map_err(unwritten)?;
    }
    Ok(())
}

impl Archive {
    /// The archive, the names of its tensors, and the zip entry of its metadata.
    fn open(reader: Box<dyn ReadSeek>, len: u64) -> Told<(Self, Vec<String>, Option<usize>)> {
        let damaged = |e| format!("expected a whole zip archive, found {}", told(e));
        let mut zip = ZipArchive::new(reader).map_err(damaged)?;
        if zip.has_duplicate_names() {
            return Err("expected one entry of each name in the zip archive, found several of one".into());
        }
        // Entries that overlap: a zip bomb, a small archive that claims to hold unlimited data.
        if zip.has_overlapping_files().map_err(damaged)? {
            return Err("expected entries that lie side by side in the zip archive, found overlapping ones".into());
        }
        let (mut names, mut indices, mut about, mut pickle) = (Vec::new(), Vec::new(), None, false);
        for index in 0..zip.len() {
            let Some(name) = zip.name_for_index(index) else { continue };
            let name = name.map_err(damaged)?;
            if name == metadata::FILE {
                about = Some(index);
            } else if let Some(name) = name.strip_suffix(".npy") {
                names.push(name.to_owned());
                indices.push(index);
            } else {
                pickle |= name == "data.pkl" || name.ends_with("/data.pkl");
            }
        }
        if names.is_empty() && pickle {
            return Err(source::PICKLE.into());
        }
        if names.is_empty() && about.is_none() && !zip.is_empty() {
            return Err("expected a zip archive of .npy arrays, found none among its entries".into());
        }
        all_different(names.iter().map(String::as_str))?;
        Ok((Self { zip, indices, len }, names, about))
    }

    fn metadata(&mut self, index: usize) -> Told<BTreeMap<String, String>> {
        let mut entry = self.zip.by_index(index).map_err(|e| format!("{}: {}", metadata::FILE, told(e)))?;
        metadata::read(&mut entry)
    }

    /// Reads one array.
    pub(super) fn tensor(&mut self, at: usize, expected: &Entry) -> Told<HostTensor> {
        self.array(at, |header, entry, stored| {
            // An uncompressed entry was checked to lie within the file.
            let tensor = header.data(entry, stored, expected)?;
            // The reader compares the checksum at the end of the entry.
            match entry.read(&mut [0]).map_err(unread)? {
                0 => Ok(tensor),
                _ => Err("expected the end of the data, found more of it".into()),
            }
        })
    }

    /// Reads the header of an array and passes it on with the entry's remaining data and whether the entry is
    /// uncompressed.
    fn array<T>(&mut self, at: usize, work: impl FnOnce(npy::Header, &mut dyn Read, bool) -> Told<T>) -> Told<T> {
        let index = *self.indices.get(at).ok_or("expected an array of the zip archive, found none")?;
        let mut entry = self.zip.by_index(index).map_err(told)?;
        let (size, packed) = (entry.size(), entry.compressed_size());
        let stored = entry.compression() == CompressionMethod::Stored;
        let end = entry.data_start().and_then(|start| start.checked_add(packed));
        if end.is_none_or(|end| end > self.len) || (stored && size != packed) {
            return Err(format!("truncated: expected {packed} bytes in the zip archive, found fewer"));
        }
        work(npy::Header::read(&mut entry, size)?, &mut entry, stored)
    }
}

/// The message of a zip error without the prefixes of its type.
fn told(e: ZipError) -> String {
    match e {
        ZipError::Io(e) => e.to_string(),
        ZipError::InvalidArchive(what) => format!("a damaged one ({what})"),
        ZipError::UnsupportedArchive(what) => format!("one that is not supported ({what})"),
        other => other.to_string(),
    }
}

fn unzipped(e: ZipError) -> String {
    match e {
        ZipError::Io(e) => unwritten(e),
        other => format!("cannot be written: {other}"),
    }
}
