//! How a run ends when a signal comes, a link leads nowhere, or a killed process left something behind.
#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

/// A run long enough to be stopped half-way through writing: its output is some 40 MB.
const LONG: &str = "sample softmax --output big.safetensors --shape H=8,N=20000,D=64 --quiet";

fn start(place: &Place, arguments: &str) -> std::process::Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_subquad"));
    command.current_dir(place.0.path()).args(arguments.split_whitespace());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_signal_ends_a_command_as_signals_do_and_leaves_no_temporary_file() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let place = Place::new();
        let mut child = start(&place, LONG);
        // Until the temporary file is there, or the command has ended.
        let begun = Instant::now();
        while place.names().is_empty() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = kill(Pid::from_raw(child.id().try_into().unwrap()), signal);
        let status = child.wait().unwrap();
        if status.success() {
            assert_eq!(place.names(), ["big.safetensors"]);
        } else {
            assert_eq!(status.signal(), Some(signal as i32), "{status:?}");
            let left = place.names();
            assert!(left.iter().all(|name| name == "big.safetensors"), "{signal}: {left:?}");
        }
    }
}

/// `nohup` asks that HUP be ignored.
#[test]
fn a_signal_that_the_parent_ignores_stays_ignored() {
    let place = Place::new();
    let script = format!("trap '' HUP; exec {} {LONG}", env!("CARGO_BIN_EXE_subquad"));
    let mut child = std::process::Command::new("sh").current_dir(place.0.path()).args(["-c", &script]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let _ = kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGHUP);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_a_killed_process_left_is_deleted_once_it_is_old() {
    let place = Place::new();
    let [old, new] = [".subquad-abcdef.tmp", ".subquad-ghijkl.tmp"].map(|name| place.path(name));
    std::fs::create_dir(place.path(".subquad-folder.tmp")).unwrap();
    for path in [&old, &new] {
        std::fs::write(path, "half of a tensor").unwrap();
    }
    let yesterday = SystemTime::now() - Duration::from_secs(25 * 3600);
    std::fs::File::options().write(true).open(&old).unwrap().set_modified(yesterday).unwrap();
    place.done("sample softmax --output in.safetensors --shape H=1,N=4,D=4 --quiet");
    assert!(!old.exists() && new.exists(), "{:?}", place.names());
}

#[test]
fn an_output_that_is_a_link_to_nothing_is_refused() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    std::os::unix::fs::symlink("nowhere.npz", place.path("o.npz")).unwrap();
    let sentence = "o.npz: cannot be written: expected a file or a new name, found a link that leads nowhere";
    place.refuse("run linear --backend cpu --input in.npz --output o.npz", 1, sentence);
}

/// Results that nobody can read are no success.
#[test]
#[cfg(target_os = "linux")]
fn a_closed_standard_output_is_an_error() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let shell = |line: &str| {
        let script = format!("{} {line}", env!("CARGO_BIN_EXE_subquad"));
        let mut command = assert_cmd::Command::new("sh");
        Ran::of(command.current_dir(place.0.path()).args(["-c", &script]))
    };
    for line in ["inspect in.npz", "run linear --backend cpu --input in.npz --output - 2>err", "adapters --json"] {
        let ran = shell(&format!("{line} >&-"));
        let said = ran.err.clone() + &std::fs::read_to_string(place.path("err")).unwrap_or_default();
        assert_eq!(
            (ran.code, said.lines().last()),
            (1, Some("error: standard output: cannot be written: it is closed")),
            "{line}"
        );
    }
    assert_eq!(shell("inspect in.npz >/dev/null").code, 0);
    assert_eq!(shell("run linear --backend cpu --quiet --input in.npz --output o.npz >&-").code, 0);
}

#[test]
fn more_threads_than_are_of_use_are_not_made() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let mut command = place.command(&["run", "linear", "--backend", "cpu", "--input", "in.npz"]);
    let ran = Ran::of(command.env("RAYON_NUM_THREADS", "1000000"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.starts_with("RAYON_NUM_THREADS is 1000000: ") && ran.err.lines().count() == 1, "{ran:?}");
    let mut command = place.command(&["run", "linear", "--backend", "cpu", "--input", "in.npz"]);
    assert_eq!(Ran::of(command.env("RAYON_NUM_THREADS", "2")).err, "");
}

/// Small files whose outputs or states no memory holds.
#[test]
fn outputs_and_states_that_do_not_fit_are_refused_before_anything_is_allocated() {
    let place = Place::new();
    place.write("wide.npz", &[("q", &[1, 1 << 20, 2, 1]), ("k", &[1, 1, 2, 1]), ("v", &[1, 1, 2, 1 << 20])]);
    place.write("slay.npz", &[("q", &[1, 64, 2, 256]), ("k", &[1, 64, 2, 256]), ("v", &[1, 64, 2, 64])]);
    for (line, start) in [
        (
            "softmax --input wide.npz",
            "softmax: tensor `o` [1, 1048576, 2, 1048576], with what is held beside it, needs 8796",
        ),
        ("slay --input slay.npz --poly exact --nodes 32 --features 1024", "slay: the state of this shape needs 17936"),
        ("slay --input slay.npz --anchors 1048576 --nodes 8 --features 64", "slay: the state of this shape needs 8933"),
    ] {
        let ran = place.run(&format!("run {line} --backend cpu --quiet"));
        assert!(ran.code == 1 && ran.err.starts_with(&format!("error: {start}")), "{ran:?}");
        assert!(ran.err.contains(" bytes of memory, this machine has ") && ran.err.lines().count() == 1, "{ran:?}");
    }
}
