//! Checks shared by all targets: those of tests/files/reading.rs, over files in a folder of this process.

// The tests use more of it.
#[allow(dead_code)]
#[path = "../../../tests/files/reading.rs"]
pub mod reading;

use std::path::PathBuf;
use std::sync::OnceLock;

use subquad::io::TensorFile;

/// The folder of this process.
fn folder() -> &'static PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("subquad-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        dir
    })
}

/// Reads `bytes` as a file of that name.
#[allow(dead_code)]
pub fn file(name: &str, bytes: &[u8]) -> Result<TensorFile, String> {
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    reading::read_path(&path, bytes.len()).0
}

/// Reads the directory of these files. Those of an earlier call with other names are gone.
#[allow(dead_code)]
pub fn directory(files: &[(&str, &[u8])]) -> Result<TensorFile, String> {
    let path = folder().join("d");
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).expect("a temporary directory");
    for (name, bytes) in files {
        std::fs::write(path.join(name), bytes).expect("a temporary file");
    }
    reading::read_path(&path, files.iter().map(|(_, bytes)| bytes.len()).sum()).0
}
