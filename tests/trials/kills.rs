//! A run that is killed leaves its output and its state both as they were or both new, and each complete. INT and TERM leave no
//! temporary file either.
//!
//! KILL cannot be held back. Between the renames of the two files lie some microseconds in which it leaves the output new and
//! the state old: a trial that meets them is counted, and a second one fails.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use subquad::io;

use crate::dice::Dice;
use crate::{count, trial};

/// Instants of a plain run.
const INSTANTS: usize = 40;

const SAMPLE: &str = "sample linear --output in.safetensors --shape H=8,N=4000,D=64 --quiet";
const OTHER: &str = "sample linear --output other.safetensors --shape H=8,N=500,D=64 --seed 1 --quiet";
const RUN: &str =
    "run linear --backend cpu --quiet --input in.safetensors --output o.safetensors --state-out s.safetensors";
const FILES: [&str; 2] = ["o.safetensors", "s.safetensors"];

/// How the names of temporary files begin.
const PREFIX: &str = ".subquad-";

/// How often a run is looked at.
const STEP: Duration = Duration::from_micros(100);

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("kills::output_and_state_are_one", output_and_state_are_one)]
}

/// Contents of both files; none where a file is absent.
type Contents = [Option<Vec<u8>>; 2];

fn output_and_state_are_one() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    for arguments in [SAMPLE, OTHER, &RUN.replace("in.safetensors", "other.safetensors")] {
        assert!(start(place, arguments).wait().unwrap().success());
    }
    let old = contents(place);
    let spans: Vec<_> = (0..3).map(|_| measured(place)).collect();
    // From the start to the first write, and to the end.
    let [writing, end] = [0, 1].map(|at| spans.iter().map(|span| span[at]).max().unwrap());
    let new = contents(place);
    assert!(old.iter().zip(&new).all(|(old, new)| old.is_some() && new.is_some() && old != new));
    FILES.iter().for_each(|file| drop(io::read(&place.join(file)).unwrap()));

    let (mut both_old, mut both_new, mut torn, mut litter) = (0, 0, 0, 0);
    let instants = count(INSTANTS);
    for number in 0..instants {
        let mut dice = Dice::of("kills", number);
        let signal = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT][number / 2 % 4];
        let before = if dice.once_in(4) { [None, None] } else { old.clone() };
        restore(place, &before);
        let part = (number as f64 + dice.below(1000) as f64 / 1000.0) / instants as f64;
        let mut child = start(place, RUN);
        let begun = Instant::now();
        // Half of the instants from the start, the later the denser; half from where the files are written.
        let instant = if number % 2 == 0 {
            end.mul_f64(1.05 * part.cbrt())
        } else {
            while !writes(place) && begun.elapsed() < 4 * end {
                std::thread::sleep(STEP);
            }
            begun.elapsed() + (end - writing).mul_f64(1.1 * part)
        };
        std::thread::sleep(instant.saturating_sub(begun.elapsed()));
        let _ = kill(Pid::from_raw(child.id().try_into().unwrap()), signal);
        let status = child.wait().unwrap();

        let (after, left) = (contents(place), temporaries(place));
        let what = format!("{signal} after {:?} of {end:?}, trial {number}: {status}", begun.elapsed());
        assert!(status.success() || status.signal() == Some(signal as i32), "{what}");
        let is = |of: &Contents, at: usize| after[at] == of[at];
        if is(&new, 0) && is(&new, 1) {
            both_new += 1;
        } else if is(&before, 0) && is(&before, 1) && !status.success() {
            both_old += 1;
        } else if is(&new, 0) && is(&before, 1) && signal == Signal::SIGKILL {
            println!("kills: a new output beside an old state: {what}");
            torn += 1;
        } else {
            panic!("neither before nor after: {what}");
        }
        litter += usize::from(left > 0);
        assert!(left == 0 || signal == Signal::SIGKILL, "{left} temporary files: {what}");
    }
    println!(
        "kills: {instants} instants over {end:?}: {both_old} times both files as before, {both_new} times both new, {torn} \
         times a new output beside an old state; {litter} KILLs left temporary files"
    );
    assert!(both_old > 0 && both_new > 0 && torn <= 1);
}

fn start(place: &Path, arguments: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_subquad"));
    command.current_dir(place).args(arguments.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// How long a run takes until it writes and until its end.
fn measured(place: &Path) -> [Duration; 2] {
    let begun = Instant::now();
    let mut child = start(place, RUN);
    let mut writing = None;
    loop {
        if writing.is_none() && writes(place) {
            writing = Some(begun.elapsed());
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            let end = begun.elapsed();
            return [writing.unwrap_or(end), end];
        }
        std::thread::sleep(STEP);
    }
}

fn contents(place: &Path) -> Contents {
    FILES.map(|file| std::fs::read(place.join(file)).ok())
}

fn names(place: &Path) -> Vec<String> {
    std::fs::read_dir(place).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn temporaries(place: &Path) -> usize {
    names(place).iter().filter(|name| name.starts_with(PREFIX)).count()
}

/// Whether a temporary file is being filled. Empty ones are made and deleted at the start, to see whether they can be.
fn writes(place: &Path) -> bool {
    let temporary = |name: &String| name.starts_with(PREFIX);
    names(place)
        .iter()
        .filter(|name| temporary(name))
        .any(|name| std::fs::metadata(place.join(name)).is_ok_and(|about| about.len() > 0))
}

/// The folder as it was: its inputs, these contents, and nothing else.
fn restore(place: &Path, contents: &Contents) {
    for name in names(place).iter().filter(|name| !["in.safetensors", "other.safetensors"].contains(&name.as_str())) {
        std::fs::remove_file(place.join(name)).unwrap();
    }
    for (file, bytes) in FILES.iter().zip(contents) {
        if let Some(bytes) = bytes {
            std::fs::write(place.join(file), bytes).unwrap();
        }
    }
}
