//! Random command lines, right, almost right and absurd. Whatever they say, the exit code is one of those documented, nothing
//! panics, no control character is printed, and a line that fails leaves all files as they were and fails again.
//!
//! Options come from `--help`, so that new ones are tried without being listed here. Drivers are hidden: software adapters
//! would take most of the time, and tests/cli opens them.

mod grammar;
mod place;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use subquad::io;

use crate::dice::{self, Dice};
use crate::{count, trial};
use grammar::Grammar;
use place::Place;

/// Command lines of a plain run.
const LINES: usize = 500;

/// Trials that share them, for machines with several cores.
const PARTS: usize = 4;

/// How long a line may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    (0..PARTS).map(|part| trial(&format!("commands::{part}"), move || lines(part))).collect()
}

/// How a command ended.
struct Ended {
    code: i32,
    out: Vec<u8>,
    err: Vec<u8>,
}

fn lines(part: usize) {
    let place = Place::new();
    let grammar = Grammar::new();
    let before = place.snapshot();
    let mut codes = BTreeMap::<i32, usize>::new();
    for number in (part..count(LINES)).step_by(PARTS) {
        let mut dice = Dice::of("commands", number);
        let line = grammar.line(&mut dice);
        let input = dice.once_in(2);
        let what = format!("line {number} of SUBQUAD_SEED={}: {line:?}", dice::seed());
        let ended = run(&place, &line, input, &what);
        judge(&line, &ended, &what);
        let after = place.snapshot();
        if after != before {
            // A failed run of `bench` keeps what it measured, and `--verify` judges what was written.
            let keeps = ended.code == 3 || line.iter().any(|word| word == "bench");
            assert!(ended.code == 0 || keeps, "{what} failed and left {:?}", place::changes(&before, &after));
            for name in place::changes(&before, &after) {
                let path = place.root().join(&name);
                assert!(!name.to_string_lossy().contains(".subquad-"), "{what} left {name:?}");
                // Others write text and folders, whatever the name.
                let tensors = line[0] == "run" || line[0] == "sample";
                if tensors && path.extension().is_some_and(|extension| extension == "safetensors" || extension == "npz")
                {
                    io::read(&path).unwrap_or_else(|e| panic!("{what} wrote what is not read: {e}"));
                }
            }
            place.restore(&before, &after);
        }
        if ended.code != 0 {
            let again = run(&place, &line, input, &what);
            assert_eq!(again.code, ended.code, "{what} ended otherwise the second time");
            place.restore(&before, &place.snapshot());
        }
        *codes.entry(ended.code).or_default() += 1;
    }
    println!("commands::{part}: lines by exit code: {codes:?}");
}

fn judge(line: &[OsString], ended: &Ended, what: &str) {
    let err = String::from_utf8_lossy(&ended.err);
    assert!((0..=4).contains(&ended.code), "{what} gave {}: {err}", ended.code);
    assert!(!err.contains("panicked"), "{what}: {err}");
    // The code alone is the result of `diff --quiet`.
    let told = !ended.err.is_empty() || !ended.out.is_empty() || line.iter().any(|word| word == "diff");
    assert!(ended.code == 0 || told, "{what} failed without a word");
    // A tensor file on standard output is binary.
    let binary = line.iter().any(|word| word == "-" || word.to_string_lossy().ends_with("=-"));
    for (stream, bytes) in [("stdout", &ended.out), ("stderr", &ended.err)] {
        if stream == "stdout" && binary {
            continue;
        }
        let text = std::str::from_utf8(bytes).unwrap_or_else(|e| panic!("{what}: {stream}: {e}"));
        let wrong = text.chars().find(|&c| c.is_control() && c != '\n');
        assert!(wrong.is_none(), "{what}: {stream} has {wrong:?}: {text:?}");
    }
}

/// Runs a line in the folder of the place, with a tensor file or nothing on standard input.
fn run(place: &Place, line: &[OsString], input: bool, what: &str) -> Ended {
    let mut command = command();
    let [out, err] = ["out", "err"].map(|name| place.aside(name));
    let file = |path| std::fs::File::create(path).unwrap();
    command.args(line).current_dir(place.work()).stdout(file(&out)).stderr(file(&err));
    command.stdin(if input { Stdio::from(std::fs::File::open(place.input()).unwrap()) } else { Stdio::null() });
    let begun = Instant::now();
    let mut child = command.spawn().unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{what} takes more than {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let [out, err] = [out, err].map(|path| std::fs::read(path).unwrap());
    let text = String::from_utf8_lossy(&err);
    let code = status.code().unwrap_or_else(|| panic!("{what}: {status}: {text}"));
    Ended { code, out, err }
}

/// The command, without adapters and with limited memory: what it takes beyond it is refused by the system, and shows here as
/// an abort.
fn command() -> Command {
    let program = env!("CARGO_BIN_EXE_subquad");
    let mut command = if cfg!(target_os = "linux") {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 8388608; exec \"$0\" \"$@\"", program]);
        shell
    } else {
        Command::new(program)
    };
    for variable in ["WGPU_BACKEND", "WGPU_ADAPTER_NAME", "RUST_LOG"] {
        command.env_remove(variable);
    }
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "__EGL_VENDOR_LIBRARY_FILENAMES"] {
        command.env(variable, "none.json");
    }
    // Each thread reserves room for its stack and its memory.
    command.env("RAYON_NUM_THREADS", "2");
    command
}
