//! What files and arguments say cannot command a terminal, turn its direction, or make a line of its own.

use super::*;

/// Control characters, and those that turn the direction of writing or end a line.
const HOSTILE: &str =
    "a\u{1b}[31m\u{7}\u{9b}2J\u{7f}\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}\u{2028}\u{2029}\rb\nc";

fn is_harmless(c: char) -> bool {
    let turns = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'];
    c == '\n'
        || !(c.is_control()
            || turns.contains(&c)
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c))
}

/// Runs the command and gives how it ended, which must be harmless.
#[track_caller]
fn ran(place: &Place, arguments: &[&str]) -> Ran {
    let ran = Ran::of(&mut place.command(arguments));
    for text in [&ran.out, &ran.err] {
        assert!(text.chars().all(is_harmless), "{arguments:?}: {ran:?}");
        assert!(!text.lines().any(|line| line.starts_with('c')), "a line of its own: {arguments:?}: {ran:?}");
    }
    ran
}

/// A file with such text wherever text can be.
fn hostile(place: &Place, file: &str) {
    let tensors = PLAIN.iter().map(|(name, shape)| ((*name).to_owned(), filled(name, shape)));
    let tensors = tensors.chain([(HOSTILE.to_owned(), filled("x", &[2]))]).collect();
    let metadata = [(HOSTILE.to_owned(), HOSTILE.to_owned())].into_iter().collect();
    io::write(&place.path(file), &tensors, &metadata).expect("a written file");
}

#[test]
fn names_and_metadata_of_files() {
    let place = Place::new();
    for file in ["in.safetensors", "in.npz"] {
        hostile(&place, file);
        let shown = ran(&place, &["inspect", file]);
        assert!(shown.code == 0 && shown.out.contains("a\u{fffd}[31m"), "{shown:?}");
        let whole = ran(&place, &["inspect", file, "--json"]);
        assert!(whole.out.contains("\\u202e") && whole.out.contains("\\u009b2J\\u007f"), "{whole:?}");
        assert_eq!(whole.out.lines().count(), 1);
        let whole = json(&whole.out);
        assert_eq!(whole["metadata"][HOSTILE], HOSTILE);
        assert!(whole["tensors"].as_array().expect("tensors").iter().any(|tensor| tensor["name"] == HOSTILE));
        assert_eq!(ran(&place, &["diff", file, file]).code, 0);
        assert_eq!(ran(&place, &["diff", file, file, "--json"]).code, 0);
        let used = ran(&place, &["run", "linear", "--backend", "cpu", "-i", file, "-o", "o.npz"]);
        assert!(used.code == 0 && used.err.starts_with("not used: a\u{fffd}[31m"), "{used:?}");
        assert_eq!(used.err.lines().count(), 1, "{used:?}");
        let missing = ran(&place, &["run", "conv1d", "--backend", "cpu", "-i", file]);
        assert!(missing.code == 1 && missing.err.lines().count() == 1, "{missing:?}");
    }
}

#[test]
fn dtypes_and_headers_of_files() {
    let place = Place::new();
    let array = |descr: &str| {
        let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (0,), }}\n");
        let mut bytes = b"\x93NUMPY\x03\x00".to_vec();
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes
    };
    std::fs::create_dir(place.path("d")).expect("a directory");
    for descr in [format!("[('{HOSTILE}', '<f4')]"), format!("'{HOSTILE}'"), HOSTILE.to_owned()] {
        std::fs::write(place.path("d/q.npy"), array(&descr)).expect("a file");
        for arguments in [&["inspect", "d"][..], &["inspect", "d", "--json"], &["run", "linear", "-i", "d"]] {
            let shown = ran(&place, arguments);
            assert!(shown.code == 0 || shown.err.lines().count() == 1, "{shown:?}");
        }
    }
    raw(&place.path("x.safetensors"), &format!("{{\"{HOSTILE}\":1}}").replace('\n', "\\n").replace('\r', "\\r"), 0);
    assert_eq!(ran(&place, &["inspect", "x.safetensors"]).code, 1);
}

#[test]
fn arguments_and_paths() {
    let place = Place::new();
    hostile(&place, "in.npz");
    let path = format!("{HOSTILE}.npz");
    for (arguments, code) in [
        (&[HOSTILE][..], 2),
        (&["run", HOSTILE, "-i", "x"], 2),
        (&["run", "linear", "-i", "x", HOSTILE], 2),
        (&["run", "linear", "-i", "x", &format!("--{HOSTILE}")], 2),
        (&["run", "linear", "-i", "x", &format!("--{HOSTILE}=1")], 2),
        (&["run", "linear", "-i", "x", "--rule", HOSTILE], 2),
        (&["run", "linear", "-i", "x", "--scale", HOSTILE], 2),
        (&["run", "linear", "-i", "x", "--seed", HOSTILE], 2),
        (&["run", "linear", "-i", "x", "--map", HOSTILE], 2),
        (&["run", "linear", "-i", "x", "--map", &format!("{HOSTILE}=q")], 2),
        (&["run", "linear", "-i", "in.npz", "--map", &format!("q=x{HOSTILE}")], 1),
        (&["run", "linear", "-i", "in.npz", "--prefix", HOSTILE], 1),
        (&["run", "linear", "-i", "in.npz", "-o", HOSTILE, "--state-out", HOSTILE], 2),
        (&["run", "linear", "-i", HOSTILE], 1),
        (&["run", "linear", "-i", "in.npz", "--adapter", HOSTILE], 4),
        (&["run", "linear", "-i", "in.npz", "-o", &format!("o.{HOSTILE}")], 2),
        (&["inspect", &path], 1),
        (&["diff", "in.npz", &path], 1),
        (&["sample", "linear", "-o", "x.npz", "--shape", HOSTILE], 2),
        (&["wgsl", "linear", "--kernel", HOSTILE], 2),
        (&["bench", "linear", "--flag", HOSTILE], 2),
    ] {
        let ended = ran(&place, arguments);
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        assert!(ended.err.contains("\u{fffd}") || ended.err.contains("\\u{1b}"), "{arguments:?}: {ended:?}");
    }
    // A path that is written is one line.
    let arguments = ["run", "linear", "--backend", "cpu", "-i", "in.npz", "-o", &path, "--map", "q=q"];
    let written = ran(&place, &arguments);
    assert_eq!(written.code, 0, "{written:?}");
    assert!(written.out.contains("-> a\u{fffd}[31m"), "{written:?}");
    let listed = ran(&place, &["inspect", &path, "--json"]);
    assert_eq!(json(&listed.out)["file"], path.as_str());
    let text = ran(&place, &["sample", "conv1d", "-o", &path]);
    assert_eq!((text.code, text.out.lines().count()), (0, 2), "{text:?}");
}
