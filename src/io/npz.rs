//! The `.npz` format: a zip archive of `.npy` arrays and metadata.
//!
//! Entries are never unpacked to disk, so their names are harmless. Sizes in the zip index are only claims: an entry is
//! read as far as its `.npy` header requires, into memory that grows with the data that arrives.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::source::ReadSeek;
use super::{Entry, Listing, MAX_HEADER, METADATA, TensorFile, Told, Wanted, all_different, few_enough, npy, quoted};
use super::{metadata_json, parse_metadata, unread, unwritten};
use crate::tensor::TensorMap;

/// An opened archive with its tensors and metadata entry.
struct Archive {
    zip: ZipArchive<Box<dyn ReadSeek>>,
    /// Names of tensors and indices of their entries.
    arrays: Vec<(String, usize)>,
    metadata: Option<usize>,
    /// Bytes of the file.
    len: u64,
}

pub(super) fn read(reader: Box<dyn ReadSeek>, len: u64, wanted: Wanted<'_>) -> Told<TensorFile> {
    let mut archive = Archive::open(reader, len)?;
    let arrays = std::mem::take(&mut archive.arrays);
    let (arrays, rest): (Vec<_>, Vec<_>) = arrays.into_iter().partition(|(name, _)| wanted(name));
    few_enough(arrays.len())?;
    let metadata = archive.metadata()?;
    // Check all dtypes first, so that a bad one is refused before gigabytes are read.
    archive.each(&arrays, |header, _, _| header.elem())?;
    let others = archive.entries(&rest)?;
    let tensors = archive.each(&arrays, |header, entry, stored| {
        // An uncompressed entry was checked to lie within the file.
        let tensor = header.data(entry, stored)?;
        // The reader compares the checksum at the end of the entry.
        match entry.read(&mut [0]).map_err(unread)? {
            0 => Ok(tensor),
            _ => Err("expected the end of the data, found more of it".into()),
        }
    })?;
    let tensors: TensorMap = tensors.into_iter().map(|(name, _, tensor)| (name, tensor)).collect();
    Ok(TensorFile { tensors, others, metadata })
}

pub(super) fn inspect(reader: Box<dyn ReadSeek>, len: u64) -> Told<Listing> {
    let mut archive = Archive::open(reader, len)?;
    let metadata = archive.metadata()?;
    let arrays = std::mem::take(&mut archive.arrays);
    let entries = archive.entries(&arrays)?;
    Ok(Listing { format: "npz", metadata, entries })
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
        npy::write(zip, tensor).map_err(|e| format!("tensor {}: {e}", quoted(name)))?;
    }
    if !metadata.is_empty() {
        let text = metadata_json(metadata)?;
        zip.start_file(METADATA, options(text.len())).map_err(unzipped)?;
        zip.write_all(&text).map_err(unwritten)?;
    }
    Ok(())
}

impl Archive {
    fn open(reader: Box<dyn ReadSeek>, len: u64) -> Told<Self> {
        let damaged = |e| format!("expected a whole zip archive, found {}", told(e));
        let mut zip = ZipArchive::new(reader).map_err(damaged)?;
        if zip.has_duplicate_names() {
            return Err("expected one entry of each name in the zip archive, found several of one".into());
        }
        // Entries that overlap: a zip bomb, a small archive that claims to hold unlimited data.
        if zip.has_overlapping_files().map_err(damaged)? {
            return Err("expected entries that lie side by side in the zip archive, found overlapping ones".into());
        }
        let (mut arrays, mut metadata) = (Vec::new(), None);
        for index in 0..zip.len() {
            let Some(name) = zip.name_for_index(index) else { continue };
            let name = name.map_err(damaged)?;
            if name == METADATA {
                metadata = Some(index);
            } else if let Some(name) = name.strip_suffix(".npy") {
                arrays.push((name.to_owned(), index));
            }
        }
        if arrays.is_empty() && metadata.is_none() && !zip.is_empty() {
            return Err("expected a zip archive of .npy arrays, found none among its entries".into());
        }
        all_different(arrays.iter().map(|(name, _)| name.as_str()))?;
        Ok(Self { zip, arrays, metadata, len })
    }

    fn metadata(&mut self) -> Told<BTreeMap<String, String>> {
        let Some(index) = self.metadata else { return Ok(BTreeMap::new()) };
        let mut text = Vec::new();
        let mut entry = self.zip.by_index(index).map_err(|e| format!("{METADATA}: {}", told(e)))?;
        (&mut entry).take(MAX_HEADER + 1).read_to_end(&mut text).map_err(|e| format!("{METADATA}: {}", unread(e)))?;
        parse_metadata(&text)
    }

    /// Reads the headers of all arrays.
    fn entries(&mut self, arrays: &[(String, usize)]) -> Told<Vec<Entry>> {
        let headers = self.each(arrays, |_, _, _| Ok(()))?;
        Ok(headers.into_iter().map(|(name, header, ())| header.entry(name)).collect())
    }

    /// Reads the header of each array and passes it on with the entry's remaining data and whether the entry is
    /// uncompressed.
    fn each<T>(
        &mut self,
        arrays: &[(String, usize)],
        mut work: impl FnMut(&npy::Header, &mut dyn Read, bool) -> Told<T>,
    ) -> Told<Vec<(String, npy::Header, T)>> {
        let mut out = Vec::with_capacity(arrays.len());
        for (name, index) in arrays {
            let mut one = || {
                let mut entry = self.zip.by_index(*index).map_err(told)?;
                let (size, packed) = (entry.size(), entry.compressed_size());
                let stored = entry.compression() == CompressionMethod::Stored;
                let end = entry.data_start().and_then(|start| start.checked_add(packed));
                if end.is_none_or(|end| end > self.len) || (stored && size != packed) {
                    return Err(format!("truncated: expected {packed} bytes in the zip archive, found fewer"));
                }
                let header = npy::Header::read(&mut entry, size)?;
                let result = work(&header, &mut entry, stored)?;
                Ok((header, result))
            };
            let (header, result) = one().map_err(|e| format!("tensor {}: {e}", quoted(name)))?;
            out.push((name.clone(), header, result));
        }
        Ok(out)
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
