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
