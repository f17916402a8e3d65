//! The weights of a model: safetensors files in mapped memory, found by name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::keys::Keys;
use crate::error::Error;
use crate::io::Mapped;
use crate::tensor::{DType, HostTensor, Shape, Values};

/// The file of a checkpoint in one file.
const WHOLE: &str = "model.safetensors";

/// The index of a checkpoint in several files.
const INDEX: &str = "model.safetensors.index.json";

/// Where a tensor of ours is among those of the files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    /// Name in the files.
    pub(crate) tensor: String,
    /// Its rows, in order; `None` for all.
    pub(crate) rows: Option<Vec<Range<usize>>>,
    /// Whether 1 is added to the values: a norm's weight that is stored as the difference from 1.
    pub(crate) plus_one: bool,
}

impl Source {
    /// The whole tensor of that name.
    pub(crate) fn of(tensor: impl Into<String>) -> Self {
        Self { tensor: tensor.into(), rows: None, plus_one: false }
    }

    /// Some of its rows.
    #[must_use]
    pub(crate) fn rows(self, rows: impl IntoIterator<Item = Range<usize>>) -> Self {
        Self { rows: Some(rows.into_iter().collect()), ..self }
    }

    /// Adds 1 to the values.
    #[must_use]
    pub(crate) fn plus_one(self) -> Self {
        Self { plus_one: true, ..self }
    }
}

/// The tensors of a checkpoint, none of which has been read.
#[derive(Debug)]
pub(crate) struct Weights {
    folder: PathBuf,
    files: Vec<Mapped>,
    /// File and entry of each tensor.
    index: BTreeMap<String, (usize, usize)>,
    /// Tensors that the model has asked for.
    used: Mutex<BTreeSet<String>>,
}

impl Weights {
    /// Maps the files of a folder: those of its index, else `model.safetensors`, else every `*.safetensors`.
    ///
    /// # Errors
    /// [`Error::File`] if a file is missing or damaged, or if two hold a tensor of one name.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let (whole, index) = (folder.join(WHOLE), folder.join(INDEX));
        let (paths, expected) = if index.exists() {
            indexed(folder, &index)?
        } else if whole.exists() {
            (vec![whole], Vec::new())
        } else {
            (listed(folder)?, Vec::new())
        };
        let mut weights =
            Self { folder: folder.to_path_buf(), files: Vec::new(), index: BTreeMap::new(), used: Mutex::default() };
        for path in paths {
            let file = Mapped::open(&path)?;
            for (at, entry) in file.entries().enumerate() {
                if let Some((other, _)) = weights.index.insert(entry.name.clone(), (weights.files.len(), at)) {
                    let other = weights.files[other].path().display();
                    return Err(Error::file(path, format!("tensor `{}`: is in {other} too", entry.name)));
                }
            }
            weights.files.push(file);
        }
        match expected.into_iter().find(|name| !weights.index.contains_key(name)) {
            Some(name) => Err(Error::file(index, format!("tensor `{name}`: expected it in the files, found none"))),
            None => Ok(weights),
        }
    }

    /// Whether there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Storage type and shape of a tensor; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`Error::File`] if it is of a dtype that cannot be read.
    pub(crate) fn head(&self, name: &str) -> Result<Option<(DType, Shape)>, Error> {
        match self.index.get(name) {
            Some((file, at)) => self.files[*file].head(*at).map(Some),
            None => Ok(None),
        }
    }

    /// The tensors that the model has asked for.
    fn used(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Storage type and shape of what a source describes; `None` if the files lack it. The tensor counts as used.
    ///
    /// # Errors
    /// [`Error::File`] if it is of a dtype that cannot be read, or has fewer rows.
    pub(crate) fn find(&self, source: &Source) -> Result<Option<(DType, Shape)>, Error> {
        let Some((dtype, shape)) = self.head(&source.tensor)? else { return Ok(None) };
        self.used().insert(source.tensor.clone());
        let Some(rows) = &source.rows else { return Ok(Some((dtype, shape))) };
        let mut dims = shape.dims().to_vec();
        let end = rows.iter().map(|rows| rows.end).max().unwrap_or(0);
        if dims.first().is_none_or(|first| *first < end) {
            let message = format!("tensor `{}`: expected at least {end} rows, found {shape}", source.tensor);
            return Err(Error::file(self.folder.clone(), message));
        }
        dims[0] = rows.iter().map(Range::len).sum();
        Ok(Some((dtype, dims.into())))
    }

    /// Reads what a source describes. Contiguous rows of f32 and f16 are not copied.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such tensor.
    pub(crate) fn read(&self, source: &Source) -> Result<HostTensor, Error> {
        let Some((file, at)) = self.index.get(&source.tensor) else {
            return Err(Error::file(
                self.folder.clone(),
                format!("tensor `{}`: expected one, found none", source.tensor),
            ));
        };
        let file = &self.files[*file];
        let (_, shape) = file.head(*at)?;
        let all = 0..shape.dims().first().copied().unwrap_or(1);
        let mut tensor = match source.rows.as_deref() {
            None => file.rows(*at, all)?,
            Some([rows]) => file.rows(*at, rows.clone())?,
            Some(rows) => {
                let pieces = rows.iter().map(|rows| file.rows(*at, rows.clone())).collect::<Result<Vec<_>, _>>()?;
                HostTensor::join(&pieces, 0)
            }
        };
        if source.plus_one {
            tensor = tensor.cast(DType::F32);
            if let Values::F32(values) = tensor.values_mut() {
                values.to_mut().iter_mut().for_each(|x| *x += 1.0);
            }
        }
        Ok(tensor)
    }

    /// Refuses tensors that the model has not asked for, except those that a family leaves out.
    ///
    /// # Errors
    /// [`Error::File`], which names the first.
    pub(crate) fn finish(&self, family: &str, ignored: impl Fn(&str) -> bool) -> Result<(), Error> {
        let used = self.used();
        let mut left = self.index.iter().filter(|(name, _)| !used.contains(*name) && !ignored(name));
        let Some((name, (file, at))) = left.next() else { return Ok(()) };
        let (file, others) = (&self.files[*file], left.count());
        let (dtype, shape) = file.head(*at)?;
        let more = if others == 0 { String::new() } else { format!(", and {others} more") };
        let message = format!("tensor `{name}` ({dtype} {shape}): is no part of this {family} model{more}");
        Err(Error::file(file.path().to_path_buf(), message))
    }

    /// Lets the system take back the memory of what was read. It is read again if it is asked for.
    pub(crate) fn release(&self) {
        self.files.iter().for_each(Mapped::release);
    }

    /// Folder of the files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of all tensors in the files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().flat_map(Mapped::entries).map(|entry| entry.bytes).sum()
    }

    /// Number of elements of the tensors.
    pub(crate) fn elements(&self) -> u64 {
        let count = |shape: &[u64]| shape.iter().product::<u64>();
        self.files.iter().flat_map(Mapped::entries).map(|entry| count(&entry.shape)).sum()
    }
}

/// The files and the tensors of an index.
fn indexed(folder: &Path, index: &Path) -> Result<(Vec<PathBuf>, Vec<String>), Error> {
    let wrong = |message: String| Error::file(index.to_path_buf(), message);
    let Some(map) = Keys::open(index)?.object("weight_map")? else {
        return Err(wrong("expected the key `weight_map`, found none".into()));
    };
    let (mut files, mut tensors) = (BTreeSet::new(), Vec::new());
    for name in map.unread().into_iter().map(str::to_owned).collect::<Vec<_>>() {
        let Some(file) = map.text(&name)? else { continue };
        // The index must not lead out of the folder.
        if Path::new(&file).file_name().is_none_or(|plain| plain != Path::new(&file).as_os_str()) {
            return Err(wrong(format!(
                "`weight_map.{name}`: expected the name of a file in the folder, found {file:?}"
            )));
        }
        files.insert(folder.join(&file));
        tensors.push(name);
    }
    Ok((files.into_iter().collect(), tensors))
}

/// Every safetensors file of a folder.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let refuse = |message: String| Error::file(folder.to_path_buf(), message);
    let entries = std::fs::read_dir(folder).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect();
    paths.sort();
    if paths.is_empty() {
        return Err(refuse("expected weights in *.safetensors, found no such file".into()));
    }
    Ok(paths)
}
