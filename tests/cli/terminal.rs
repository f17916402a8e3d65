//! The command on a terminal, in pipes that close, and under signals. Unix only; terminals come from the tool `script`.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(120);

fn spawn(place: &Place, arguments: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_subquad"))
        .args(arguments.split_whitespace())
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts")
}

/// Waits for the end and gives the status and how long it took.
fn ended(mut child: Child) -> (ExitStatus, Duration) {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a process") {
            return (status, started.elapsed());
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("still running after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill");
    assert!(status.success());
}

/// Runs the command with a terminal as its output; gives its exit code and what the terminal showed.
#[cfg(target_os = "linux")]
fn on_a_terminal(place: &Place, arguments: &str) -> (i32, String) {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_subquad"));
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(place.path(""));
    let output = command.stdin(Stdio::null()).env("TERM", "xterm").output().expect("`script`, of util-linux");
    (output.status.code().expect("a code"), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(target_os = "linux")]
#[test]
fn a_tensor_file_is_not_written_to_a_terminal() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let why = "standard output is a terminal, and a tensor file is binary; redirect it to a file or a pipe";
    for (arguments, flag) in [
        ("run linear --backend cpu -i in.npz -o -", "output"),
        ("run linear --backend cpu -i in.npz --state-out -", "state-out"),
        ("sample linear -o -", "output"),
    ] {
        let sentence = format!("error: linear: --{flag} -: {why}\r\n");
        assert_eq!(on_a_terminal(&place, arguments), (2, sentence), "{arguments}");
    }
    assert_eq!(on_a_terminal(&place, "run linear --backend cpu -i in.npz").0, 0);
}

/// Inputs whose reference takes seconds.
fn slow(place: &Place, length: usize) {
    place.done(&format!("sample softmax -o slow.safetensors --shape 1,2,{length},64 --quiet"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_shows_a_bar_with_share_and_time_left() {
    let place = Place::new();
    slow(&place, 2048);
    let (code, shown) = on_a_terminal(&place, "run softmax --backend cpu -i slow.safetensors --verify");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("softmax: computing the reference [") && shown.contains(" %, about "), "{shown}");
    assert!(shown.contains(" s left"), "{shown}");
    let (code, shown) = on_a_terminal(&place, "run softmax --backend cpu -i slow.safetensors --verify --quiet");
    assert_eq!((code, shown.as_str()), (0, ""));
}

#[test]
fn without_a_terminal_long_work_prints_a_line_now_and_then() {
    if std::env::var_os("SUBQUAD_QUICK").is_some() {
        eprintln!("SKIPPED: takes ten seconds");
        return;
    }
    let place = Place::new();
    slow(&place, 16384);
    let started = Instant::now();
    let mut child = spawn(&place, "run softmax --backend cpu -i slow.safetensors --verify");
    let mut line = String::new();
    BufReader::new(child.stderr.take().expect("stderr")).read_line(&mut line).expect("text");
    let waited = started.elapsed();
    child.kill().expect("a process");
    child.wait().expect("an end");
    assert!(line.starts_with("softmax") && line.contains(" %, ") && line.ends_with('\n'), "{line:?}");
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
}

#[test]
fn a_closed_pipe_ends_a_command_silently() {
    let place = Place::new();
    let bench =
        "bench linear --backend cpu --heads 1 --dim 8 --length 16-2048+16 --repeat 3 --max-seconds 0.05 --quiet";
    for (arguments, read) in [
        (format!("{bench} --format csv"), 1),
        (format!("{bench} --format jsonl"), 1),
        ("wgsl --all".into(), 1),
        ("sample linear -o - --shape N=2048 --quiet".into(), 0),
        ("run linear --help".into(), 0),
    ] {
        let mut child = spawn(&place, &arguments);
        let mut out = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        for _ in 0..read {
            out.read_line(&mut line).expect("text");
        }
        drop(out);
        let mut err = child.stderr.take().expect("stderr");
        let (status, waited) = ended(child);
        let mut text = String::new();
        err.read_to_string(&mut text).expect("text");
        assert_eq!((status.code(), text.as_str()), (Some(0), ""), "{arguments}");
        assert!(read == 0 || !line.is_empty(), "{arguments}");
        // All 128 shapes take longer than those until the closed pipe is noticed.
        assert!(waited < Duration::from_secs(60), "{arguments}: {waited:?}");
    }
}

/// A shape that takes minutes on two cores behind one that takes milliseconds: a signal ends the run all the same.
#[test]
fn a_signal_ends_a_bench_inside_a_long_run_and_keeps_the_results() {
    for (name, code) in [("-TERM", 143), ("-INT", 130)] {
        let place = Place::new();
        let bench = "bench softmax --backend cpu --heads 8 --length 64,32768 --repeat 3 --quiet";
        let child = spawn(&place, &format!("{bench} --format json --output r.json"));
        let started = Instant::now();
        while !place.path("r.json").exists() {
            assert!(started.elapsed() < PATIENCE, "no row");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_secs(1));
        signal(&child, name);
        let (status, waited) = ended(child);
        assert_eq!(status.code(), Some(code), "{name}");
        assert!(waited < Duration::from_secs(30), "{name}: {waited:?}");
        let run = json(&std::fs::read_to_string(place.path("r.json")).expect("results"));
        let rows = run["adapters"][0]["rows"].as_array().expect("rows");
        assert_eq!((run["interrupted"].as_bool(), rows.len()), (Some(true), 1), "{name}: {run}");
        assert_eq!((&rows[0]["length"], &rows[0]["status"]), (&64.into(), &"ok".into()));
    }
}
