//! Checks shared by all targets: a file of these bytes gives tensors or a one-line error, and both readers agree.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use subquad::io;

/// Reads `bytes` as a file named `name`. If the name ends in `.npy`, reads the directory that holds only this file.
pub fn check(name: &str, bytes: &[u8]) {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("subquad-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        dir
    });
    let file = dir.join(name);
    std::fs::write(&file, bytes).expect("a temporary file");
    let path: &Path = if name.ends_with(".npy") { dir } else { &file };
    let (found, listed) = (io::read(path), io::inspect(path));
    match (&found, &listed) {
        (Ok(found), Ok(listed)) => assert_eq!(found.tensors.len(), listed.entries.len()),
        (Ok(_), Err(e)) => panic!("read but not listed: {e}"),
        (Err(_), _) => {}
    }
    for message in [found.err(), listed.err()].into_iter().flatten().map(|e| e.to_string()) {
        assert!(!message.is_empty() && !message.contains('\n'), "{message}");
    }
}
