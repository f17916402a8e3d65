//! Lines from the commands and options that `--help` lists.

use std::collections::BTreeMap;
use std::ffi::OsString;

use subquad::catalog::spec::Op;
use subquad::ops::OPS;

use super::place::INPUTS;
use crate::dice::Dice;

/// An option: `-o, --output <FILE>`.
struct Opt {
    short: Option<String>,
    long: String,
    /// Name of the value in the help; none for a switch.
    value: Option<String>,
    /// The values that the help lists.
    words: Vec<String>,
}

/// Options by command: `diff`, `run linear`.
pub(super) struct Grammar(BTreeMap<String, Vec<Opt>>);

/// Commands, each as often as it has parts among all. `bench` takes seconds even for the smallest shape.
const WEIGHTS: [(&str, usize); 11] = [
    ("run", 28),
    ("sample", 10),
    ("diff", 6),
    ("inspect", 6),
    ("merge", 6),
    ("wgsl", 4),
    ("check", 3),
    ("adapters", 2),
    ("bench", 1),
    ("completions", 1),
    ("absurd", 2),
];

/// Where outputs go. No path leads out of the place but to devices.
const OUTPUTS: [&str; 20] = [
    "o.npz",
    "odir",
    "odir/",
    "-",
    "linear.npz",
    "state.safetensors",
    "softmax",
    "empty/",
    "nowhere.npz",
    "notes.txt",
    "notes.txt/o.npz",
    "absent/o.npz",
    "o.tar.gz",
    "O.NPZ",
    "é漢\u{1f600}.npz",
    "a\nb\u{1b}[31m\u{202e}.npz",
    ".",
    "..",
    "/dev/null",
    "/dev/full",
];

const NUMBERS: [&str; 27] = [
    "0",
    "4097",
    "-1",
    "-0",
    "1099511627776",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "1e9",
    "1e-9",
    "1e38",
    "-1e38",
    "1e39",
    "1e400",
    "1e-46",
    "NaN",
    "inf",
    "-inf",
    "0x10",
    "1.5",
    "1_000",
    "+1",
    " 1",
    "1 ",
    "٣",
];

const ABSURD: [&str; 20] = [
    "",
    "-",
    "--",
    "---",
    "-x",
    "-h",
    "--help",
    "--version",
    "-V",
    "--bogus",
    "--bogus=1",
    "=",
    "é",
    "\u{1b}[2J",
    "a\nb",
    "\u{202e}txt",
    "%s%n",
    "$(id)",
    "*",
    "help",
];

impl Grammar {
    pub(super) fn new() -> Self {
        let mut found = BTreeMap::new();
        for (command, _) in WEIGHTS.iter().filter(|(command, _)| *command != "absurd") {
            if ["run", "sample"].contains(command) {
                for op in OPS {
                    found.insert(format!("{command} {}", op.name), options(&[command, op.name]));
                }
            } else {
                found.insert((*command).to_owned(), options(&[command]));
            }
        }
        Self(found)
    }

    pub(super) fn line(&self, dice: &mut Dice) -> Vec<OsString> {
        let mut pick = dice.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
        let heavier = |(_, weight): &&(&str, usize)| {
            let here = pick < *weight;
            pick = pick.wrapping_sub(if here { 0 } else { *weight });
            here
        };
        let command = WEIGHTS.iter().find(heavier).unwrap().0;
        let op = dice.one(OPS);
        // Words that belong together, such as an option and its value.
        let mut groups: Vec<Vec<OsString>> = vec![vec![command.into()]];
        let mut push = |words: &[&str]| groups.push(words.iter().map(OsString::from).collect());
        match command {
            "run" => {
                push(&[op.name]);
                if !dice.once_in(8) {
                    push(&["--backend", "cpu"]);
                }
                push(&["--input", &if dice.once_in(6) { input(dice) } else { format!("{}.safetensors", op.name) }]);
                if !op.state.is_empty() && dice.once_in(8) {
                    push(&["--state-in", "state.safetensors"]);
                }
                if !dice.once_in(3) {
                    push(&["--output", output(dice)]);
                }
            }
            "sample" => {
                push(&[op.name]);
                push(&["--output", output(dice)]);
                push(&[&format!("--shape={}", axes(dice, op))]);
            }
            "diff" => push(&[&input(dice), &input(dice)]),
            "inspect" => push(&[&input(dice)]),
            "merge" => {
                push(&[&input(dice)]);
                push(&["--state-out", output(dice)]);
            }
            "check" => {
                let quick: Vec<_> = (op.cases)().into_iter().filter(|case| case.quick).collect();
                push(&["--adapter=cpu"]);
                push(&[op.name]);
                push(&[&format!("--case={}", dice.one(&quick).name)]);
            }
            "bench" => {
                for word in ["--adapter=cpu", "--max-seconds=0.001", "--repeat=1", "--length=8", "--heads=2", "--dim=8"]
                {
                    push(&[word]);
                }
                push(&[op.name]);
            }
            "wgsl" => push(&[op.name]),
            "completions" => push(&[dice.word(&["bash", "zsh", "fish", "elvish", "powershell", "cmd"])]),
            "adapters" => {}
            _ => return (0..dice.below(5)).map(|_| absurd(dice)).collect(),
        }
        // Of `run` and `sample` the operator is part of the command.
        let named = usize::from(["run", "sample"].contains(&command));
        let options = if named == 1 { &self.0[&format!("{command} {}", op.name)] } else { &self.0[command] };
        for _ in 0..dice.below(4) {
            let option = dice.one(options);
            let given = |group: &Vec<OsString>| group[0].to_string_lossy().split('=').next() == Some(&option.long);
            if !groups.iter().any(given) || dice.once_in(10) {
                let at = 1 + named + dice.below(groups.len() - named);
                groups.insert(at, option.given(dice, op));
            }
        }
        let mut line: Vec<OsString> = groups.into_iter().flatten().collect();
        if dice.once_in(5) {
            let at = dice.below(line.len());
            // What limits the time of these stays.
            let kinds = if ["check", "bench"].contains(&command) { 2 } else { 4 };
            match dice.below(kinds) {
                0 => line.insert(at, absurd(dice)),
                1 => line.insert(at, line[at].clone()),
                2 => drop(line.remove(at)),
                _ => {
                    let other = dice.below(line.len());
                    line.swap(at, other);
                }
            }
        }
        line
    }
}

impl Opt {
    /// The option with a value, in one of the forms that options have.
    fn given(&self, dice: &mut Dice, op: &Op) -> Vec<OsString> {
        let name = match &self.short {
            Some(short) if dice.once_in(2) => short,
            _ => &self.long,
        };
        match &self.value {
            None if dice.once_in(20) => vec![format!("{name}=1").into()],
            None => vec![name.into()],
            Some(_) if dice.once_in(30) => vec![name.into()],
            Some(kind) => {
                let value = value(dice, kind, &self.words, op);
                if name.starts_with("--") && dice.once_in(2) {
                    let mut word = OsString::from(format!("{name}="));
                    word.push(value);
                    vec![word]
                } else {
                    vec![name.into(), value]
                }
            }
        }
    }
}

/// The options in the help of a command.
fn options(command: &[&str]) -> Vec<Opt> {
    let output = super::command().args(command).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let one = |line: &str| {
        let line = line.trim_start();
        let at = line.find("--").filter(|at| line.starts_with('-') && *at <= 4)?;
        let short = line[..at].strip_suffix(", ").map(str::to_owned);
        let long: String = line[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect();
        let value = line[at + long.len()..].strip_prefix(" <").map(|rest| rest.split('>').next().unwrap().to_owned());
        let words = line.split_once("[possible values: ").map_or("", |(_, rest)| rest.split(']').next().unwrap());
        let words = words.split(", ").filter(|word| !word.is_empty()).map(str::to_owned).collect();
        Some(Opt { short, long, value, words })
    };
    let found: Vec<_> = help.lines().filter_map(one).collect();
    assert!(found.iter().any(|option| option.long == "--help"), "{command:?}: {help}");
    found
}

fn value(dice: &mut Dice, kind: &str, words: &[String], op: &Op) -> OsString {
    if dice.once_in(12) {
        return absurd(dice);
    }
    if !words.is_empty() {
        return dice.one(words).into();
    }
    match kind {
        "FILE" | "DIR" | "OLD.json" if dice.once_in(2) => input(dice).into(),
        "FILE" | "DIR" | "OLD.json" => output(dice).into(),
        "COUNT" | "LENGTH" | "N" => number(dice).into(),
        "X" if dice.once_in(2) => dice.word(&["0.5", "1e-3", "0", "2", "1e-30"]).into(),
        "X" => number(dice).into(),
        "AXES" | "AXIS=LENGTH" => axes(dice, op).into(),
        "LIST" => {
            dice.word(&["4,8", "8-32*2", "8-16+4", "0", "1-100000000", "5-1", "8-64*1", "8-64*0", "8,", "a"]).into()
        }
        "NAME=TENSOR" => format!("{}={}", name(dice), name(dice)).into(),
        "NAME=VALUE" => format!("{}={}", dice.word(&["rule", "scale", "window", "rank", ""]), number(dice)).into(),
        "NAME" | "PREFIX" | "TEXT" => name(dice).into(),
        _ if dice.once_in(2) => dice.word(&["cpu", "all", "none", "llvmpipe", "0,1", "0"]).into(),
        _ => number(dice).into(),
    }
}

/// Small numbers, and those at the ends of what types hold.
fn number(dice: &mut Dice) -> String {
    if dice.once_in(4) { dice.word(&NUMBERS).to_owned() } else { dice.below(20).to_string() }
}

fn name(dice: &mut Dice) -> &'static str {
    dice.word(&["q", "k", "v", "x", "o", "state", "layer.0.", "absent", "a\u{1b}[31m\n\u{202e}é", ""])
}

/// Lengths of axes, mostly small ones of axes that the operator has.
fn axes(dice: &mut Dice, op: &Op) -> String {
    if dice.once_in(10) {
        return number(dice);
    }
    // Long defaults are cut short first.
    let mut text = String::from(dice.word(&["N=8", "N=1", "N=20"]));
    for letter in ["H", "D", "C"] {
        if op.axes.iter().any(|(own, _)| *own == letter) {
            text.push_str(&format!(",{letter}={}", 4 * (1 + dice.below(2))));
        }
    }
    if dice.once_in(2) {
        let letter = if dice.once_in(4) { dice.word(&["Z", "é", ""]) } else { dice.one(op.axes).0 };
        text.push_str(&format!(",{letter}={}", number(dice)));
    }
    text
}

fn output(dice: &mut Dice) -> &'static str {
    if dice.once_in(2) { "o.safetensors" } else { dice.word(&OUTPUTS) }
}

/// A path to read from.
fn input(dice: &mut Dice) -> String {
    match dice.below(8) {
        0..4 => format!("{}.safetensors", dice.one(OPS).name),
        4 | 5 => dice.word(&INPUTS).to_owned(),
        6 => "x".repeat(300) + ".npz",
        _ => {
            dice.word(&["-", "", ".", "..", "/", "absent.npz", "/dev/null", "/dev/zero", "notes.txt/x", "a\nb"]).into()
        }
    }
}

fn absurd(dice: &mut Dice) -> OsString {
    #[cfg(unix)]
    if dice.once_in(8) {
        use std::os::unix::ffi::OsStringExt;
        return OsString::from_vec(b"a\xff\x80.npz".to_vec());
    }
    if dice.once_in(8) {
        return "9".repeat(1 + dice.below(5000)).into();
    }
    dice.word(&ABSURD).into()
}
