//! Writes files and directories atomically: they appear under their name only when they are complete.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tempfile::{Builder, NamedTempFile, TempDir, TempPath};

use super::{Told, unwritten};

/// The names of temporary files begin with PREFIX and end with SUFFIX.
const PREFIX: &str = ".subquad-";
const SUFFIX: &str = ".tmp";
/// Second names of files that are about to be replaced begin with this, and end with SUFFIX.
const BEFORE: &str = ".subquad-before-";

/// A temporary file or directory that was not touched for this time is a killed process's.
const STALE: Duration = Duration::from_secs(12 * 3600);

/// Temporary names of this process. Whoever makes, checks or renames temporary files holds the lock, so that a signal comes
/// before or after it.
static TEMPORARIES: Mutex<Temporaries> = Mutex::new(Temporaries { names: Vec::new(), ending: false });

struct Temporaries {
    /// Names of temporary files and directories, some of which are gone.
    names: Vec<PathBuf>,
    /// Whether the process is about to end: nothing is made or renamed any more.
    ending: bool,
}

/// A file or a new directory that is complete, but not yet under its name. If it is dropped, nothing remains of it.
#[derive(Debug)]
pub(super) struct Staged {
    temporary: Temporary,
    target: PathBuf,
}

#[derive(Debug)]
enum Temporary {
    File(NamedTempFile),
    Directory(TempDir),
}

/// Fills a temporary file next to the destination.
pub(super) fn file(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> Told<()>) -> Told<Staged> {
    // If the path is a symbolic link, its target is replaced and the link stays.
    let target = destination(path)?;
    let before = existing(&target)?;
    let folder = parent(&target)?;
    sweep(&folder);
    let temporary = noted(|| builder(0o666).tempfile_in(folder), NamedTempFile::path)?;
    {
        let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
        fill(&mut out)?;
        out.flush().map_err(unwritten)?;
    }
    if let Some(before) = before {
        temporary.as_file().set_permissions(before.permissions()).map_err(unwritten)?;
    }
    // A full disk may be reported only here. After a crash the name must not refer to missing data.
    temporary.as_file().sync_all().map_err(unwritten)?;
    Ok(Staged { temporary: Temporary::File(temporary), target })
}

/// Fills a temporary directory next to the destination, which must not exist yet.
pub(super) fn new_directory(path: &Path, fill: impl FnOnce(&Path) -> Told<()>) -> Told<Staged> {
    // A trailing slash would make the path its own parent.
    let target: PathBuf = path.components().collect();
    absent(&target)?;
    let folder = parent(&target)?;
    sweep(&folder);
    let temporary = noted(|| builder(0o777).tempdir_in(folder), TempDir::path)?;
    // If it failed because `abandon` took the directory away, the signal is what ends the process.
    fill(temporary.path()).inspect_err(|_| drop(temporaries()))?;
    Ok(Staged { temporary: Temporary::Directory(temporary), target })
}

/// Gives all of them their names: each is complete by now, so that what can still fail is a rename. If one fails, those before
/// it are taken back.
pub(super) fn commit(staged: Vec<Staged>) -> Result<(), (PathBuf, String)> {
    let mut temporaries = temporaries();
    // All second names come first: between the first and the last rename a process that is killed leaves some outputs new and
    // some old, so that nothing else may take time there.
    let second_names: Vec<_> = staged.iter().map(Staged::second_name).collect();
    temporaries.names.extend(second_names.iter().flatten().map(|name| name.to_path_buf()));
    let mut done: Vec<Done> = Vec::new();
    for (one, before) in staged.into_iter().zip(second_names) {
        let (target, is_new) = (one.target.clone(), !one.target.exists());
        match one.commit() {
            Ok(()) => done.push(Done { target, is_new, before }),
            Err(message) => {
                done.into_iter().rev().for_each(Done::undo);
                return Err((target, message));
            }
        }
    }
    Ok(())
}

/// A rename that can be undone: the destination, whether there was nothing before, and a second name of what it replaced.
struct Done {
    target: PathBuf,
    is_new: bool,
    before: Option<TempPath>,
}

impl Done {
    fn undo(self) {
        // Both may fail on a disk that fails; the error that led here is reported.
        let _ = match self.before {
            Some(before) => before.persist(&self.target).map_err(|e| e.error),
            // What was there before has no second name: better the new file than none.
            None if !self.is_new => Ok(()),
            None if self.target.is_dir() => fs::remove_dir_all(&self.target),
            None => fs::remove_file(&self.target),
        };
    }
}

impl Staged {
    fn commit(self) -> Told<()> {
        let Self { temporary, target } = self;
        match temporary {
            Temporary::File(file) => file.persist(&target).map(drop).map_err(|e| unwritten(e.error)),
            Temporary::Directory(directory) => {
                fs::rename(directory.path(), &target).map_err(unwritten)?;
                // The temporary name is gone after the rename; there is nothing to clean up.
                let _ = directory.keep();
                Ok(())
            }
        }
    }

    /// A second, temporary name of the file that this one replaces, if there is one. None where the file system has no hard
    /// links: then a rename cannot be undone.
    fn second_name(&self) -> Option<TempPath> {
        if matches!(self.temporary, Temporary::Directory(_)) || !self.target.exists() {
            return None;
        }
        let name =
            Builder::new().prefix(BEFORE).suffix(SUFFIX).tempfile_in(self.target.parent()?).ok()?.into_temp_path();
        fs::remove_file(&name).ok()?;
        fs::hard_link(&self.target, &name).ok()?;
        Some(name)
    }
}

/// Makes a temporary file or directory and notes its name for [`abandon`].
fn noted<T>(make: impl FnOnce() -> std::io::Result<T>, path: fn(&T) -> &Path) -> Told<T> {
    let mut temporaries = temporaries();
    let made = make().map_err(uncreated)?;
    temporaries.names.push(path(&made).to_path_buf());
    Ok(made)
}

fn temporaries() -> MutexGuard<'static, Temporaries> {
    let temporaries = lock();
    if temporaries.ending {
        drop(temporaries);
        // The signal comes at once. An error in the meantime would be reported in its place.
        loop {
            std::thread::park();
        }
    }
    temporaries
}

fn lock() -> MutexGuard<'static, Temporaries> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Deletes every temporary file of this process, which is about to end; waits for a [`commit`] under way. A thread that begins
/// to write from now on waits for the end.
#[cfg(feature = "cli")]
pub(super) fn abandon() {
    let mut temporaries = lock();
    temporaries.ending = true;
    for path in temporaries.names.drain(..) {
        // Files that have got their final name are not found under the temporary one.
        if path.is_dir() {
            // Renamed first, since a thread may still be making files in it.
            let away = path.with_extension(format!("end{SUFFIX}"));
            let _ = fs::remove_dir_all(if fs::rename(&path, &away).is_ok() { &away } else { &path });
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

/// When a file got a name: a second name keeps the time at which the file was written. None where the system does not say.
fn named(about: &fs::Metadata) -> Option<SystemTime> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(about.ctime().try_into().ok()?))
    }
    #[cfg(not(unix))]
    {
        let _ = about;
        None
    }
}

/// Deletes temporary files that a killed process left here.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        let Ok(about) = entry.metadata() else { continue };
        let touched = if name.to_string_lossy().starts_with(BEFORE) { named(&about) } else { about.modified().ok() };
        if touched.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > STALE) {
            let path = entry.path();
            let _ = if about.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// Checks whether [`file`] could work; for a directory, [`new_directory`], or [`file`] in an existing one.
pub(super) fn check(path: &Path, directory: bool) -> Told<()> {
    let path: PathBuf = path.components().collect();
    let inside = if directory && path.is_dir() {
        path
    } else if directory {
        absent(&path)?;
        parent(&path)?
    } else {
        let target = destination(&path)?;
        existing(&target)?;
        parent(&target)?
    };
    // Creating a file is the only test that covers permissions, quotas and all file systems.
    let _held = temporaries();
    builder(0o666).tempfile_in(inside).map(drop).map_err(uncreated)
}

/// Sets the permissions that the umask leaves of `mode`, as for any new file. A temporary file is owner-only by
/// default.
fn builder(mode: u32) -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

fn absent(path: &Path) -> Told<()> {
    if path.exists() {
        return Err(
            "cannot be written: expected a directory or a new name (an output without extension is a directory of \
                    .npy files), found a file"
                .into(),
        );
    }
    Ok(())
}

/// The file that a path leads to, through links. A link to nothing is refused: what it would create, and where, its owner
/// may not know.
fn destination(path: &Path) -> Told<PathBuf> {
    match fs::canonicalize(path) {
        Ok(target) => Ok(target),
        Err(_) if fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink()) => {
            Err("cannot be written: expected a file or a new name, found a link that leads nowhere".into())
        }
        Err(_) => Ok(path.to_path_buf()),
    }
}

/// Metadata of an existing destination. It is refused if it is not a file that may be replaced.
fn existing(target: &Path) -> Told<Option<fs::Metadata>> {
    let Ok(about) = fs::metadata(target) else { return Ok(None) };
    if !about.is_file() {
        return Err("cannot be written: expected a regular file or a new name, found something else there (`-` is \
                    standard output)"
            .into());
    }
    if about.permissions().readonly() {
        return Err("cannot be written: expected a file that may be replaced, found a read-only one".into());
    }
    Ok(Some(about))
}

/// The directory that holds the path.
fn parent(path: &Path) -> Told<PathBuf> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err("cannot be written: expected a path that ends in a name".into()),
    };
    if !parent.is_dir() {
        return Err(format!("cannot be written: expected a directory {}, found none", parent.display()));
    }
    Ok(parent.to_path_buf())
}

fn uncreated(e: std::io::Error) -> String {
    format!("cannot be written: a file cannot be created beside it: {e}")
}
