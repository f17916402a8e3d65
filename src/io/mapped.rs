//! A safetensors file in mapped memory: the header is read and checked, and tensors of f32 and f16 are used where they lie.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::decode::{Data, Elem};
use super::source::{self, Source};
use super::{Entry, Listing, Told, dims, located, safetensors, within};
use crate::error::Error;
use crate::tensor::{self, DType, HostTensor, Shape, Values};

/// A mapped safetensors file whose header agrees with its length.
pub struct Mapped {
    path: PathBuf,
    map: Arc<Mmap>,
    entries: Vec<(Entry, Range<usize>)>,
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapped").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Elements of a mapped file.
struct Span<T> {
    map: Arc<Mmap>,
    bytes: Range<usize>,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T: bytemuck::Pod> AsRef<[T]> for Span<T> {
    fn as_ref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[self.bytes.clone()])
    }
}

impl Mapped {
    /// Maps a file and reads its header. Another process must not change the file while it is used.
    ///
    /// # Errors
    /// [`Error::File`] if the file is missing, no safetensors file, or not as long as its header says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        located(path, || {
            let Source::Safetensors(bytes) = source::open(path)? else {
                return Err("expected a .safetensors file, found another format".into());
            };
            let (Listing { entries, .. }, _) = safetensors::open(bytes)?;
            let file = File::open(path).map_err(super::unread)?;
            // SAFETY: the map is only read. A file that another process shortens meanwhile ends this one with a signal, and one
            // that it overwrites changes the weights, as with every program that maps weights; the documentation says so.
            let map = unsafe { Mmap::map(&file) }.map_err(super::unread)?;
            let data: usize = entries.iter().map(|entry| entry.bytes as usize).sum();
            // The header precedes the data, which ends the file.
            let mut at = map.len().checked_sub(data).ok_or("changed while it was opened")?;
            let place = |entry: Entry| {
                let start = at;
                at += entry.bytes as usize;
                (entry, start..at)
            };
            let entries = entries.into_iter().map(place).collect();
            Ok(Self { path: path.to_path_buf(), map: Arc::new(map), entries })
        })
    }

    /// Lets the system take back the memory of what was read. It is read again if it is asked for.
    pub fn release(&self) {
        #[cfg(unix)]
        {
            // SAFETY: the map is of a file and only read, so that its pages come back as they were.
            let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header entries, in the order of the data.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(entry, _)| entry)
    }

    /// The storage type that tensor number `at` has once it is loaded, and its shape.
    ///
    /// # Errors
    /// [`Error::File`] if it is of a dtype that cannot be read.
    pub fn head(&self, at: usize) -> Result<(DType, Shape), Error> {
        let (entry, _) = &self.entries[at];
        located(&self.path, || {
            Ok((entry.elem()?.dtype(), dims(&entry.shape).map_err(|e| within(&entry.name, &e))?.into()))
        })
    }

    /// Some rows (indices of the first axis) of tensor number `at`. Elements of f32 and f16 are not copied if they are aligned,
    /// as all common writers align them.
    ///
    /// # Errors
    /// [`Error::File`] if it is of a dtype that cannot be read.
    pub fn rows(&self, at: usize, rows: Range<usize>) -> Result<HostTensor, Error> {
        let (entry, bytes) = &self.entries[at];
        located(&self.path, || {
            let elem = entry.elem()?;
            let mut shape = dims(&entry.shape)?;
            let each = bytes.len() / shape.first().copied().unwrap_or(1).max(1);
            let bytes = bytes.start + rows.start * each..bytes.start + rows.end * each;
            if let Some(first) = shape.first_mut() {
                *first = rows.len();
            }
            Ok(HostTensor::new(shape.clone(), self.values(elem, bytes, shape.iter().product())?))
        })
    }

    fn values(&self, elem: Elem, bytes: Range<usize>, count: usize) -> Told<Values> {
        let raw = &self.map[bytes.clone()];
        if cfg!(target_endian = "little") {
            match elem {
                Elem::F32 if raw.as_ptr().cast::<f32>().is_aligned() => return Ok(Values::F32(self.span(bytes))),
                Elem::F16 if raw.as_ptr().cast::<half::f16>().is_aligned() => return Ok(Values::F16(self.span(bytes))),
                _ => {}
            }
        }
        let mut stream = source::Bytes::File(Box::new(std::io::Cursor::new(raw)), raw.len() as u64);
        Data { elem, big_endian: false, count, present: true }.read(&mut stream)
    }

    fn span<T: bytemuck::Pod>(&self, bytes: Range<usize>) -> tensor::Data<T> {
        tensor::Data::shared(Arc::new(Span { map: self.map.clone(), bytes, kind: std::marker::PhantomData }))
    }
}
