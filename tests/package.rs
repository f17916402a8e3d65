//! What `cargo package` takes, without a GPU: all that the documents link to, and no goldens.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Paths inside the package, with `/`. An unpacked package (which has a Cargo.toml.orig) lists itself.
fn packaged() -> BTreeSet<String> {
    if root().join("Cargo.toml.orig").exists() {
        return walk(&root());
    }
    let cargo = std::env::var_os("CARGO").expect("cargo runs tests");
    let listed = Command::new(cargo)
        .args(["package", "--list", "--allow-dirty", "--offline", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8(listed.stdout).unwrap().lines().map(|line| line.replace('\\', "/")).collect()
}

fn walk(top: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![top.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(top).unwrap().to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found
}

/// `a/../b.md` is `b.md`. None if the path leaves the repository.
fn resolve(folder: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A document's links to files and headings, and the names of its headings, as GitHub and crates.io make them.
fn links_and_anchors(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut links, mut anchors, mut heading) = (Vec::new(), Vec::new(), None::<String>);
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                links.push(dest_url.into_string());
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(text) | Event::Code(text) => heading.iter_mut().for_each(|heading| heading.push_str(&text)),
            Event::End(TagEnd::Heading(_)) => {
                let name = heading.take().unwrap().to_lowercase().replace(' ', "-");
                anchors.push(name.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect());
            }
            _ => {}
        }
    }
    links.retain(|link| !link.contains("://") && !link.starts_with("mailto:"));
    (links, anchors)
}

#[test]
fn every_link_of_the_packaged_documents_leads_into_the_package() {
    let files = packaged();
    let there = |path: &str| {
        let folder = format!("{path}/");
        files.contains(path) || files.iter().any(|file| file.starts_with(&folder))
    };
    let mut checked = 0;
    for document in files.iter().filter(|file| file.ends_with(".md")) {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let (links, anchors) = links_and_anchors(&text);
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in links {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            if path.is_empty() {
                assert!(anchors.iter().any(|name| name == anchor), "{document}: no heading for the link {link}");
            } else {
                let target = resolve(folder, path).unwrap_or_else(|| panic!("{document}: {link} leaves the package"));
                assert!(there(&target), "{document}: the package has no {target}, which it links to");
                if !anchor.is_empty() && target.ends_with(".md") {
                    let (_, anchors) = links_and_anchors(&fs::read_to_string(root().join(&target)).unwrap());
                    assert!(anchors.iter().any(|name| name == anchor), "{document}: no heading for the link {link}");
                }
            }
            checked += 1;
        }
    }
    assert!(checked > 0, "no document has a link");
}

#[test]
fn the_package_has_what_it_runs_and_no_goldens() {
    let files = packaged();
    for file in
        ["Cargo.lock", "LICENSE-MIT", "LICENSE-APACHE", "README.md", "CHANGELOG.md", "examples/minilm.safetensors"]
    {
        assert!(files.contains(file), "the package has no {file}");
    }
    let unwanted = ["tests/goldens/", ".ci/", "target/", "tools/node_modules/", "tools/.cargo-deny/"];
    for file in &files {
        assert!(!unwanted.iter().any(|folder| file.starts_with(folder)), "the package has {file}");
    }
}
