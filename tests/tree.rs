//! The shape of the tree, without a GPU: an operator is one place under five equal names.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use subquad::ops::{OPS, PARTS, find};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path.as_ref())).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn every_operator_has_its_five_places() {
    for op in OPS {
        let name = op.name;
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
        for file in ["mod.rs", "layout.rs", "reference.rs", "cpu.rs", "row.rs", "cases.rs"] {
            assert!(root().join("src/ops").join(name).join(file).exists(), "src/ops/{name}/{file}");
        }
        assert!(root().join("tests/ops").join(format!("{name}.rs")).exists(), "tests/ops/{name}.rs");
        let listed = read("tests/ops/main.rs").contains(&format!("{name}::tests()"));
        assert!(listed, "tests/ops/main.rs does not list the tests of {name}");
        assert!(std::ptr::eq(find(name).unwrap(), op), "two rows named {name}");
        // An operator may be composed of parts, which have kernels of their own.
        let own = |kernel: &str| kernel.starts_with(&format!("{name}_")) || kernel.starts_with("primitives_");
        assert!(op.kernels().iter().all(|(kernel, _)| own(kernel.name)), "{name}: kernel names");
    }
    let folders = fs::read_dir(root().join("shaders")).unwrap().map(|e| e.unwrap().file_name());
    for folder in folders {
        let folder = folder.to_string_lossy().into_owned();
        assert!(
            ["lib", "cores", "primitives", "probes"].contains(&folder.as_str()) || find(&folder).is_some(),
            "shaders/{folder} belongs to no operator"
        );
    }
}

/// Parts are in one folder of each kind under the name `parts`, and every one is tested by name.
#[test]
fn every_part_has_its_kernels_and_its_tests() {
    let tests = ["primitives", "primitives_models", "matmul"].map(|name| read(format!("tests/ops/{name}.rs"))).concat();
    let modules = read("src/ops/primitives/mod.rs");
    let parts: Vec<_> = modules.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(parts.len(), PARTS.len(), "{parts:?}");
    let kernels: Vec<_> = PARTS.iter().flat_map(|part| part.kernels()).collect();
    for part in parts {
        assert!(OPS.iter().all(|op| op.name != part), "{part} is an operator and a part");
        let own = format!("primitives_{part}");
        assert!(kernels.iter().any(|(kernel, _)| kernel.name.starts_with(&own)), "{part} has no kernel {own}");
        let (inside, imported) = (format!("{part}::Config"), format!("{part}::{{"));
        let tested = tests.contains(&inside) || tests.contains(&imported);
        assert!(tested, "tests/ops: none of {part}");
    }
    assert!(kernels.iter().all(|(kernel, _)| kernel.name.starts_with("primitives_")), "names of parts' kernels");
    let docs = read("docs/operators.md");
    for part in PARTS {
        assert!(std::ptr::eq(find(part.name).unwrap(), part), "two rows named {}", part.name);
        assert!(docs.contains(&format!("\n### {}\n", part.name)), "docs/operators.md: no section on {}", part.name);
    }
}

#[test]
fn every_shader_file_is_used_has_one_entry_point_at_most_and_no_directive() {
    let rust: String = files("src", "rs").iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    let tests: String = files("tests", "rs").iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    let mut entries = HashSet::new();
    for path in files("shaders", "wgsl") {
        let name = path.strip_prefix(root().join("shaders")).unwrap().to_string_lossy().replace('\\', "/");
        let quoted = format!("\"{name}\"");
        assert!(rust.contains(&quoted) || tests.contains(&quoted), "shaders/{name} is not used");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("// "), "shaders/{name} does not say what it is");
        assert!(text.matches("@compute").count() <= 1, "shaders/{name} has two entry points");
        for line in text.lines() {
            let first = line.split_whitespace().next().unwrap_or("");
            assert!(
                !["enable", "requires", "diagnostic", "#define", "#import"].contains(&first),
                "shaders/{name}: {line}"
            );
            if let Some(rest) = line.strip_prefix("fn ").filter(|_| text.contains("@compute")) {
                let function = rest.split('(').next().unwrap();
                if text.contains(&format!(")\nfn {function}(")) {
                    assert!(entries.insert(function.to_owned()), "{function} is an entry point twice");
                    assert_ne!(function, "main", "shaders/{name}: name it after operator and stage");
                }
            }
        }
    }
}

#[test]
fn no_source_file_is_long() {
    let rust = ["src", "tests", "benches", "examples"].iter().flat_map(|f| files(f, "rs"));
    for path in rust.chain(files("shaders", "wgsl")) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 600, "{} has {lines} lines", path.display());
    }
}

/// The rooms of src/ from the ground up: a room knows those below it and itself. `io` stands beside: it knows tensors alone.
const ROOMS: [&[&str]; 11] = [
    &["error"],
    &["tensor"],
    &["gpu", "cpu"],
    &["operator"],
    &["catalog"],
    &["verify"],
    &["cores"],
    &["ops"],
    &["measure"],
    &["model"],
    &["cli"],
];

/// The code of a file without comments and without its unit tests, which may look up.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().split("#[cfg(all(test").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Path below the root, with slashes.
fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

#[test]
fn only_the_edge_submits_or_waits() {
    for path in files("src", "rs").into_iter().filter(|path| name(path) != "src/gpu/readback.rs") {
        let text = code(&path);
        for call in [".submit(", ".poll(", ".write_buffer("] {
            let edge = format!("readback::{}", &call[1..]);
            assert!(!text.replace(&edge, "").contains(call), "{} calls {call}..)", name(&path));
        }
    }
}

#[test]
fn rooms_know_only_those_below_them() {
    let floor = |room: &str| ROOMS.iter().position(|rooms| rooms.contains(&room));
    for path in files("src", "rs") {
        let (name, text) = (name(&path), code(&path));
        let room = name.split('/').nth(1).unwrap().trim_end_matches(".rs");
        if ["lib", "bin"].contains(&room) {
            continue;
        }
        let known: HashSet<_> = text
            .split("crate::")
            .skip(1)
            .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
            .filter(|room| floor(room).is_some() || *room == "io")
            .collect();
        for other in known {
            let below = match (floor(room), floor(other)) {
                (Some(own), Some(theirs)) => theirs < own || room == other,
                (None, _) => ["error", "tensor", "io"].contains(&other),
                (Some(_), None) => ["model", "cli"].contains(&room),
            };
            assert!(below, "{name} must not know crate::{other}");
        }
        let forbid = |word: &str| assert!(!text.contains(word), "{name} must not know {word}");
        if room == "io" || name.ends_with("/layout.rs") || name.ends_with("/reference.rs") {
            forbid("wgpu::");
        }
        if name.ends_with("/reference.rs") {
            forbid("crate::gpu");
        }
        // The layer that serves every operator names none.
        if ["gpu", "cpu", "operator", "cores"].contains(&room) {
            forbid("crate::ops");
        }
    }
}

/// Comments and documents send readers to files: each of them is there.
#[test]
fn every_path_that_a_comment_names_exists() {
    let rust = ["src", "tests", "benches", "examples"].iter().flat_map(|folder| files(folder, "rs"));
    let shaders = files("shaders", "wgsl");
    let texts = rust.chain(shaders.clone()).chain(files("docs", "md"));
    let folders = ["src/", "shaders/", "tests/", "benches/", "examples/", "docs/", "tools/"];
    for path in texts {
        let comments = path.extension().is_some_and(|extension| extension == "md");
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some(comment) = (if comments { Some(line) } else { line.find("//").map(|at| &line[at..]) }) else {
                continue;
            };
            let words = comment.split(|c: char| !(c.is_alphanumeric() || "_-./*".contains(c)));
            for word in words.map(|word| word.trim_end_matches(['.', '/'])) {
                let named = folders.iter().any(|folder| word.starts_with(folder)) && !word.contains('*');
                let placeholder =
                    word.contains("..") || word.split('/').any(|part| part == "X" || part.starts_with("X."));
                if named && !placeholder {
                    assert!(root().join(word).exists(), "{}: {word} does not exist: {line}", name(&path));
                }
                // A shader names others without their folder.
                if path.extension().is_some_and(|extension| extension == "wgsl") && word.ends_with(".wgsl") {
                    let known = shaders.iter().any(|shader| shader.ends_with(word));
                    assert!(known, "{}: {word} does not exist: {line}", name(&path));
                }
            }
        }
    }
}

#[test]
fn the_readme_has_every_operator_and_the_package_its_licences() {
    let readme = read("README.md");
    for op in OPS {
        assert!(readme.contains(&format!("| `{}` |", op.name)), "README.md: no row for {}", op.name);
    }
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md"] {
        assert!(root().join(file).exists(), "{file}");
    }
}
