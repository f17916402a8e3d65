//! What a write leaves behind, whether it succeeds or not.

use std::path::Path;

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn one(name: &'static str) -> TensorMap {
    map([(name, HostTensor::f32([2], vec![1.0, 2.0]))])
}

#[test]
fn nothing_but_the_output_remains() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.safetensors", "a.npz", "a"] {
        io::write(&dir.path().join(name), &one("q"), &text([("k", "v")])).unwrap();
    }
    assert_eq!(names(dir.path()), ["a", "a.npz", "a.safetensors"]);
    assert_eq!(names(&dir.path().join("a")), ["metadata.json", "q.npy"]);
}

/// A name that the format reserves is found only while writing; the file that was there is still whole.
#[test]
fn a_failed_write_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let bad = map([("q", floats([3])), ("__metadata__", floats([2]))]);
    let path = dir.path().join("a.safetensors");
    assert!(sentence(&io::write(&path, &bad, &text([])).unwrap_err()).contains("reserved"));
    assert!(names(dir.path()).is_empty());
    io::write(&path, &one("q"), &text([])).unwrap();
    io::write(&path, &bad, &text([])).unwrap_err();
    assert_eq!(names(dir.path()), ["a.safetensors"]);
    assert_eq!(io::read(&path).unwrap().tensors, one("q"));

    // Metadata that no reader would take.
    let huge = text([("k", &"x".repeat(100_000_001))]);
    for name in ["huge.safetensors", "huge.npz", "huge"] {
        sentence(&io::write(&dir.path().join(name), &one("q"), &huge).unwrap_err());
    }
    // A directory in the place of a file.
    let out = dir.path().join("out");
    std::fs::create_dir_all(out.join("q.npy")).unwrap();
    sentence(&io::write(&out, &one("q"), &text([])).unwrap_err());
    assert_eq!(names(&out), ["q.npy"]);
    assert_eq!(names(dir.path()), ["a.safetensors", "out"]);
}

#[test]
fn outputs_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, part: &str| {
        let path = dir.path().join(name);
        let early = sentence(&io::write_check(&path).unwrap_err());
        let late = sentence(&io::write(&path, &one("q"), &text([])).unwrap_err());
        assert_eq!(early, late);
        assert!(early.contains(part), "{early}");
    };
    refused("absent/a.npz", "expected a directory ");
    refused("absent/a.safetensors", "expected a directory ");
    refused("absent/a/", "expected a directory ");
    refused("a.txt", "expected an output named *.safetensors or *.npz");
    refused("a.npy", "found the extension .npy");
    assert!(matches!(io::write_check(Path::new("a.npy")), Err(Error::Usage(_))));
    std::fs::write(dir.path().join("plain"), b"mine").unwrap();
    refused("plain/a.npz", "expected a directory ");
    refused("plain", "found a file");
    refused("plain/", "found a file");
    assert_eq!(std::fs::read(dir.path().join("plain")).unwrap(), b"mine");
    assert!(io::write_check(Path::new("-")).is_ok());
    assert!(io::write_check(Path::new("")).is_err());

    for name in ["../q", "a/b", "", ".", "..", "a\\b", "a\0b", "a\nb", ".hidden", "con:"] {
        let tensors: TensorMap = [(name.to_owned(), floats([2]))].into_iter().collect();
        sentence(&io::write(&dir.path().join("d"), &tensors, &text([])).unwrap_err());
        // Anywhere else a name is only a name.
        for file in ["n.npz", "n.safetensors"] {
            io::write(&dir.path().join(file), &tensors, &text([])).unwrap();
            same_bits(&io::read(&dir.path().join(file)).unwrap().tensors, &tensors);
        }
    }
    let both = map([("q", floats([2])), ("Q", floats([3]))]);
    sentence(&io::write(&dir.path().join("d"), &both, &text([])).unwrap_err());
    assert_eq!(names(dir.path()), ["n.npz", "n.safetensors", "plain"]);
}

/// An existing directory keeps its other files, and loses metadata about tensors that are no more.
#[test]
fn an_existing_directory() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.v1");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("readme.txt"), b"mine").unwrap();
    io::write(&out, &one("q"), &text([("k", "v")])).unwrap();
    io::write(&out, &map([("q", floats([3])), ("k", floats([1]))]), &text([])).unwrap();
    assert_eq!(names(&out), ["k.npy", "metadata.json", "q.npy", "readme.txt"]);
    let found = io::read(&out).unwrap();
    assert_eq!(found.tensors, map([("k", floats([1])), ("q", floats([3]))]));
    assert!(found.metadata.is_empty());
    // Somebody else's metadata need not be text.
    std::fs::write(out.join("metadata.json"), br#"{"seed": 3, "list": [1, "a"]}"#).unwrap();
    assert_eq!(io::read(&out).unwrap().metadata, text([("seed", "3"), ("list", "[1,\"a\"]")]));
    std::fs::write(out.join("metadata.json"), b"[]").unwrap();
    assert!(sentence(&io::read(&out).unwrap_err()).contains("metadata.json: expected a JSON object"));
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(sentence(&io::read(&empty).unwrap_err()).contains("expected a directory of .npy files, found none"));
}

#[cfg(unix)]
#[test]
fn permissions_and_links() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let dir = tempfile::tempdir().unwrap();
    // What any program would leave, whatever the umask here.
    let (plain, plain_dir) = (dir.path().join("plain"), dir.path().join("plain_dir"));
    std::fs::write(&plain, b"").unwrap();
    std::fs::create_dir(&plain_dir).unwrap();
    let file = dir.path().join("a.npz");
    io::write(&file, &one("q"), &text([])).unwrap();
    io::write(&dir.path().join("a"), &one("q"), &text([])).unwrap();
    assert_eq!(mode(&file), mode(&plain));
    assert_eq!(mode(&dir.path().join("a")), mode(&plain_dir));
    assert_eq!(mode(&dir.path().join("a/q.npy")), mode(&plain));
    // Permissions of a file that is replaced stay.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    io::write(&file, &one("k"), &text([])).unwrap();
    assert_eq!(mode(&file), 0o640);
    // A link stays a link.
    let link = dir.path().join("link.npz");
    symlink("a.npz", &link).unwrap();
    io::write(&link, &one("v"), &text([])).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(io::read(&file).unwrap().tensors, one("v"));
    // A read-only file was meant to stay.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
    assert!(sentence(&io::write_check(&file).unwrap_err()).contains("read-only"));
    sentence(&io::write(&file, &one("q"), &text([])).unwrap_err());
    assert_eq!(io::read(&file).unwrap().tensors, one("v"));
    // Nor is a device replaced by a file.
    let null = dir.path().join("null.npz");
    symlink("/dev/null", &null).unwrap();
    assert!(sentence(&io::write_check(&null).unwrap_err()).contains("regular file"));
}

#[test]
fn same_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    io::write(&at("a.npz"), &one("q"), &text([])).unwrap();
    io::write(&at("d"), &one("q"), &text([])).unwrap();
    let same = |a: &str, b: &str| {
        assert_eq!(io::same_file(&at(a), &at(b)), io::same_file(&at(b), &at(a)));
        io::same_file(&at(a), &at(b))
    };
    assert!(same("a.npz", "a.npz") && same("a.npz", "./a.npz") && same("a.npz", "d/../a.npz"));
    assert!(same("d", "d/") && same("d", "d/.") && !same("d", "a.npz"));
    assert!(!same("a.npz", "b.npz") && !same("a.npz", "d/a.npz"));
    // Also where nothing is yet.
    assert!(same("new.npz", "d/../new.npz") && same("new", "new/") && !same("new.npz", "d/new.npz"));
    assert!(same("no/new.npz", "no/./new.npz") && !same("new.npz", "other.npz"));
    assert!(!io::same_file(Path::new("-"), Path::new("-")));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("a.npz", at("link.npz")).unwrap();
        std::os::unix::fs::symlink("d", at("e")).unwrap();
        std::fs::hard_link(at("a.npz"), at("hard.npz")).unwrap();
        assert!(same("a.npz", "link.npz") && same("a.npz", "hard.npz") && same("e/new.npz", "d/new.npz"));
    }
}
