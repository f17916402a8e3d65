//! Writes files and directories atomically: they appear under their name only when they are complete.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::Builder;

use super::{Told, unwritten};

/// Writes a temporary file next to the destination and renames it.
pub(super) fn replace(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> Told<()>) -> Told<()> {
    // If the path is a symbolic link, its target is replaced and the link stays.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let before = existing(&target)?;
    let temporary = builder(0o666).tempfile_in(parent(&target)?).map_err(uncreated)?;
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
    temporary.persist(&target).map_err(|e| unwritten(e.error))?;
    Ok(())
}

/// Fills a temporary directory next to the destination, which must not exist yet, and renames it.
pub(super) fn new_directory(path: &Path, fill: impl FnOnce(&Path) -> Told<()>) -> Told<()> {
    // A trailing slash would make the path its own parent.
    let path: PathBuf = path.components().collect();
    absent(&path)?;
    let temporary = builder(0o777).tempdir_in(parent(&path)?).map_err(uncreated)?;
    fill(temporary.path())?;
    fs::rename(temporary.path(), &path).map_err(unwritten)?;
    // The temporary name is gone after the rename; there is nothing to clean up.
    let _ = temporary.keep();
    Ok(())
}

/// Checks whether [`replace`] could work; for a directory, [`new_directory`], or [`replace`] in an existing one.
pub(super) fn check(path: &Path, directory: bool) -> Told<()> {
    let path: PathBuf = path.components().collect();
    let inside = if directory && path.is_dir() {
        path
    } else if directory {
        absent(&path)?;
        parent(&path)?
    } else {
        let target = fs::canonicalize(&path).unwrap_or(path);
        existing(&target)?;
        parent(&target)?
    };
    // Creating a file is the only test that covers permissions, quotas and all file systems.
    builder(0o666).tempfile_in(inside).map(drop).map_err(uncreated)
}

/// Sets the permissions that the umask leaves of `mode`, as for any new file. A temporary file is owner-only by
/// default.
fn builder(mode: u32) -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(".subquad-").suffix(".tmp");
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
