//! What the command says to a mistyped command line, and how wide its tables are.

use super::*;

/// Runs the command, which must be a usage error with this tip.
#[track_caller]
fn tip(arguments: &str, tip: &str) {
    let ran = Place::new().run(arguments);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments}: {ran:?}");
    assert!(ran.err.contains(&format!("\n  tip: {tip}\n")), "{arguments}: {}", ran.err);
    assert_eq!(ran.err.matches("tip:").count(), 1, "{arguments}: {}", ran.err);
}

#[test]
fn a_file_without_a_flag_gets_the_flag_as_a_tip() {
    tip("run linear foo.safetensors", "to read this file, use `-i foo.safetensors`");
    tip("run linear --no-causal foo", "to read this file, use `-i foo`");
    tip("run linear -i in.npz out.npz", "to write to this file, use `-o out.npz`");
    tip("sample linear in.npz", "to write to this file, use `-o in.npz`");
}

#[test]
fn a_flag_of_another_operator_is_said_to_be_its() {
    tip("run softmax -i f --feature-map elu1", "--feature-map is a flag of linear");
    tip("run softmax -i f --no-normalize", "--no-normalize is a flag of linear");
    tip("run softmax -i f --epsilon=1", "--epsilon is a flag of yat and slay");
    tip(
        "run linformer -i f --state-in s",
        "--state-in is a flag of softmax, yat, mta, linear, slay, ramnet, ssd, mamba and conv1d",
    );
    tip("sample linear -o f --window 3", "--window is a flag of softmax");
    tip("bench softmax --feature-map elu1", "to set a flag of an operator, use `--flag feature-map=VALUE`");
}

#[test]
fn a_mistyped_word_gets_the_nearest_one() {
    tip("run linear -i f --normalise", "a similar argument exists: '--normalize'");
    tip("run linear -i f --rule gatd", "a similar value exists: 'gated'");
    tip("sampl linear -o f", "a similar subcommand exists: 'sample'");
    tip("check liner", "a similar value exists: 'linear'");
    tip("linear -i f", "linear is an operator: subquad run linear");
    let place = Place::new();
    let names = known_operators();
    let did = format!("unknown operator `sotfmax`; did you mean `softmax`? ({names})");
    place.refuse("run sotfmax -i f", 2, &did);
    place.refuse("run zzzz -i f", 2, &format!("unknown operator `zzzz` ({names})"));
    let before = "the operator comes before the file: subquad run OP -i f.npz";
    place.refuse("run f.npz", 2, &format!("unknown operator `f.npz`; {before} ({names})"));
}

#[track_caller]
fn narrow(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{} columns: {line}\n{text}", line.chars().count());
    }
}

#[test]
fn tables_fit_a_hundred_columns() {
    let place = Place::new();
    let long = format!("model.layers.{}.weight", "very_long_name.".repeat(8));
    place.write("in.npz", &[("q", &[1, 2, 6, 4]), (&long, &[3, 2, 1])]);
    let text = place.done("inspect in.npz");
    narrow(&text);
    // A wrapped name is still whole.
    let joined: String = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(joined.contains(&long), "{text}");
    narrow(&place.done("adapters"));
    narrow(&place.done("check conv1d linear --backend cpu --quick"));
    place.write("b.npz", &[("q", &[2, 2, 6, 4]), (&long, &[3, 2, 1])]);
    narrow(&place.run("diff in.npz b.npz").out);
    let bench = "bench softmax linear linformer --backend cpu --heads 2 --dim 8 --repeat 3 --max-seconds 0.05 --quiet";
    let bench = format!("{bench} --length 64,256 --flag feature-map=performer-relu --flag normalize=false");
    place.done(&format!("{bench} --format json -o old.json"));
    let text = place.done(&format!("{bench} --compare old.json"));
    // The last line is the command, as typed.
    let command = text.lines().position(|line| line.starts_with("subquad ")).expect("the command");
    narrow(
        &text.lines().take(command).filter(|line| !line.starts_with("linformer N=64 ")).collect::<Vec<_>>().join("\n"),
    );
}

#[test]
fn adapters_of_gl_come_last_and_are_opened_only_if_named() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let report = json(&place.done("adapters --json"));
    let adapters = report["adapters"].as_array().expect("a list");
    let backends: Vec<_> = adapters.iter().map(|adapter| adapter["backend"].as_str().expect("a name")).collect();
    assert!(backends.iter().skip_while(|backend| **backend != "gl").all(|backend| *backend == "gl"), "{backends:?}");
    assert!(adapters.iter().enumerate().all(|(at, adapter)| adapter["index"] == at), "{report}");
    // Libraries of the window system complain where it is missing: a plain run does not load them.
    let mut command = place.command(&["run", "linear", "-i", "in.npz"]);
    for variable in ["XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY"] {
        command.env_remove(variable);
    }
    let ran = Ran::of(&mut command);
    assert_eq!((ran.code, ran.err.lines().count()), (0, 1), "{ran:?}");
    assert!(ran.err.starts_with("running on ") && !ran.err.contains("(gl)"), "{ran:?}");
    // An adapter has the same number whoever looks.
    for (at, backend) in backends.iter().enumerate() {
        let ran = place.run(&format!("run linear -i in.npz --json --adapter {at}"));
        if ran.code == 0 {
            assert_eq!(json(&ran.out)["backend"], *backend, "{ran:?}");
        } else {
            assert!(ran.code == 4 && ran.err.contains(" cannot be used: "), "{ran:?}");
        }
    }
}

#[test]
fn an_adapter_that_is_missing_is_named_with_those_there_are() {
    let place = Place::new();
    place.write("in.npz", PLAIN);
    let absent = if cfg!(windows) { ("metal", "Metal") } else { ("dx12", "DX12") };
    for (flags, start) in [
        (format!("--backend {}", absent.0), format!("error: no {} adapter found (available: ", absent.1)),
        ("--adapter 99".into(), "error: no adapter with index 99 found (available: ".into()),
        ("--adapter voodoo".into(), "error: no adapter with `voodoo` in its name found (available: ".into()),
    ] {
        let ran = place.run(&format!("run linear -i in.npz {flags}"));
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.err.lines().last().is_some_and(|line| line.starts_with(&start)), "{flags}: {ran:?}");
    }
}

/// Tools of the repository, which a package of the crate does not have.
#[cfg(target_os = "linux")]
#[test]
fn setup_says_what_it_is_about_to_install() {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/setup");
    if !tool.exists() {
        eprintln!("SKIPPED: no tools/setup here");
        return;
    }
    let run = |flag: &str| {
        let output = std::process::Command::new(&tool).arg(flag).output().expect("bash");
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Ran { code: output.status.code().expect("a code"), out, err }
    };
    let ran = run("--dry-run");
    let first = ran.out.lines().next().unwrap_or_default();
    assert!(matches!(first, "setup: about to install:" | "setup: everything is installed"), "{ran:?}");
    assert!(ran.code == 0 && ran.out.lines().skip(1).all(|line| line.starts_with("  ")), "{ran:?}");
    let ran = run("--help");
    assert!(ran.code == 0 && ran.out.contains("tools/setup --dry-run"), "{ran:?}");
    let ran = run("--bad");
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    assert!(ran.err.contains("unknown option --bad") && ran.err.contains("usage: tools/setup"), "{ran:?}");
}
