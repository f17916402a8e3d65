use std::time::{Duration, Instant};

use super::{Place, json};

/// A bench that takes no time, on the cpu backend.
const SHORT: &str = "bench --backend cpu --heads 1 --dim 8 --repeat 3 --max-seconds 0.2 --quiet";

#[test]
fn json_has_rows_ceilings_growth_and_what_they_were_measured_with() {
    let place = Place::new();
    let run = json(&place.done(&format!("{SHORT} softmax linear --length 64,256,512 --format json")));
    assert_eq!(
        (run["schema"].as_u64(), run["command"].as_str(), run["interrupted"].as_bool()),
        (Some(1), Some("bench"), Some(false))
    );
    for field in ["version", "date", "host", "command_line"] {
        assert!(run[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    let site = &run["adapters"][0];
    assert_eq!((site["adapter"].as_str(), site["software"].as_bool()), (Some("cpu"), Some(false)));
    for field in ["ceiling_copy_gb_s", "ceiling_multiply_add_gflop_s", "ceiling_exp2_g_s", "submit_and_wait_us"] {
        assert!(site["ceilings"][field].as_f64().is_some_and(|x| x > 0.0), "{field}");
    }
    let rows = site["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert_eq!(row["status"], "ok", "{row}");
        assert!(row["rows_checked"].as_u64() >= Some(64), "{row}");
        let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field} of {row}"));
        assert!(number("error") <= number("error_bound"));
        assert!(number("min_us") <= number("p10_us") && number("p10_us") <= number("time_us"));
        assert!(number("time_us") <= number("p90_us"));
        // A ratio is of the time in its own row.
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-4;
        assert!(close(number("times_copy"), number("time_us") / number("copy_us")), "{row}");
        assert!(close(number("times_floor"), number("time_us") / number("floor_us")), "{row}");
        assert!(close(number("gb_s"), number("bytes") / number("time_us") / 1e3), "{row}");
        assert!(close(number("gflop_s"), number("flops") / number("time_us") / 1e3), "{row}");
        assert!(close(number("ns_a_token"), number("time_us") * 1e3 / number("length")), "{row}");
    }
    let growth = site["growth"].as_array().expect("growth");
    assert_eq!(
        growth.iter().map(|line| line["operator"].as_str()).collect::<Vec<_>>(),
        [Some("softmax"), Some("linear")]
    );
    for line in growth {
        assert!(line["exponent"].as_f64().is_some() && line["residual"].as_f64().is_some(), "{line}");
        assert_eq!(line["ns_a_token"].as_array().map(Vec::len), Some(3));
    }
    assert!(!growth[1]["faster_than_softmax_from"].is_null(), "{}", growth[1]);
}

#[test]
fn every_format_has_the_same_rows() {
    let place = Place::new();
    let run = |format: &str| place.done(&format!("{SHORT} softmax linear --length 64,128 --format {format}"));
    let csv = run("csv");
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 5, "{csv}");
    let columns: Vec<_> = lines[0].split(',').collect();
    for column in
        ["adapter", "driver", "commit", "command_line", "time_us", "ceiling_copy_gb_s", "times_floor", "software"]
    {
        assert!(columns.contains(&column), "no column {column}: {}", lines[0]);
    }
    let jsonl = run("jsonl");
    let rows: Vec<_> = jsonl.lines().map(json).collect();
    let names: Vec<_> = rows.iter().map(|row| format!("{} {}", row["operator"], row["length"])).collect();
    // In the order of measuring: shortest first.
    assert_eq!(names, ["\"softmax\" 64", "\"linear\" 64", "\"softmax\" 128", "\"linear\" 128"]);
    assert_eq!(rows[0].as_object().expect("an object").keys().collect::<Vec<_>>(), columns);
    for format in ["table", "md"] {
        let text = run(format);
        let rows = text.lines().filter(|line| {
            let line = line.trim_start_matches("| ");
            (line.starts_with("softmax ") || line.starts_with("linear ")) && line.contains("wall")
        });
        assert_eq!(rows.count(), 4, "{text}");
        assert!(text.contains("ceilings: copy ") && text.contains("crossover"), "{text}");
    }
}

#[test]
fn results_pictures_and_records_go_to_files() {
    let place = Place::new();
    let out =
        place.done(&format!("{SHORT} linear --length 64,128 --output r.json --format json --plot p.svg --record kept"));
    assert_eq!(out, "");
    let run = json(&std::fs::read_to_string(place.path("r.json")).expect("results"));
    assert_eq!(run["interrupted"], false);
    let picture = std::fs::read_to_string(place.path("p.svg")).expect("a picture");
    assert!(
        picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>") && picture.contains("linear"),
        "{picture}"
    );
    let day = run["date"].as_str().and_then(|date| date.split('T').next()).expect("a date");
    let record = |name: &str| std::fs::read_to_string(place.path("kept").join("cpu").join(name)).expect("a record");
    assert_eq!(record(&format!("{day}.csv")).lines().count(), 3);
    assert_eq!(place.names(), ["kept", "p.svg", "r.json"]);
    // A second record of the same day gets a name of its own. Midnight can lie between the two.
    let run = json(&place.done(&format!("{SHORT} linear --length 64 --format json --record kept")));
    if run["date"].as_str().is_some_and(|date| date.starts_with(day)) {
        assert_eq!(record(&format!("{day}.csv")).lines().count(), 3, "written over");
        assert_eq!(record(&format!("{day}-2.csv")).lines().count(), 2);
    }
}

#[test]
fn times_are_compared_with_an_earlier_run() {
    let place = Place::new();
    place.done(&format!("{SHORT} linear --length 64 --output old.json --format json"));
    let run = json(&place.done(&format!("{SHORT} linear --length 64,128 --compare old.json --format json")));
    let [same, new] = [0, 1].map(|at| run["adapters"][0]["rows"][at].clone());
    let ratio = same["time_us"].as_f64().expect("a time") / same["old_time_us"].as_f64().expect("an old time");
    assert!((same["times_old"].as_f64().expect("a ratio") / ratio - 1.0).abs() < 1e-4, "{same}");
    assert!(same["change"].is_string() && new["times_old"].is_null() && new["change"].is_null(), "{new}");
    let text = place.done(&format!("{SHORT} linear --length 64,128 --compare old.json"));
    assert!(text.contains("x old") && text.contains("1 of 2 shapes are not in the earlier run"), "{text}");

    // A file that is no text at all.
    std::fs::write(place.path("bytes.json"), [0xff, 0xfe, 0x00]).expect("a written file");
    let message =
        "bytes.json: expected the output of `bench --format json`, found no JSON (expected value at line 1 column 1)";
    place.refuse(&format!("{SHORT} linear --length 64 --compare bytes.json"), 1, message);
    for (file, text, message) in [
        ("no.json", None, "No such file or directory (os error 2)"),
        (
            "bad.json",
            Some("{"),
            "expected the output of `bench --format json`, found no JSON (EOF while parsing an object at line 1 column 1)",
        ),
        ("other.json", Some("{\"command\":\"run\"}"), "expected the output of `bench --format json`, found other JSON"),
        ("future.json", Some("{\"command\":\"bench\",\"schema\":99}"), "expected schema 1, found 99"),
        ("none.json", Some("{\"command\":\"bench\",\"schema\":1,\"adapters\":[]}"), "it has no times to compare with"),
    ] {
        if let Some(text) = text {
            std::fs::write(place.path(file), text).expect("a written file");
        }
        if cfg!(unix) || file != "no.json" {
            place.refuse(&format!("{SHORT} linear --length 64 --compare {file}"), 1, &format!("{file}: {message}"));
        }
    }
}

#[test]
fn what_an_operator_refuses_is_said_and_the_rest_is_measured() {
    let place = Place::new();
    let ran = place.run(&format!("{SHORT} linear linformer --length 64,512"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.out.contains("linformer N=64 refused: linformer: `rank`: expected 1 to M = 64, found 256"),
        "{}",
        ran.out
    );
    assert_eq!(ran.out.lines().filter(|line| line.contains("REFUSED")).count(), 1, "{}", ran.out);
    let ran = place.run(&format!("{SHORT} linformer --length 64"));
    assert_eq!(ran.code, 1, "nothing was measured: {ran:?}");
}

#[test]
fn mistakes_are_usage_errors_before_anything_is_measured() {
    let place = Place::new();
    let long = "bench: --length: expected whole numbers from 1, such as 1024,4096 or 1024-65536*4 or 64-256+64, found";
    for (arguments, sentence) in [
        ("bench --length 0", format!("{long} `0`")),
        ("bench --length -5", format!("{long} `-5`")),
        ("bench --length 8-64", format!("{long} `8-64`")),
        ("bench --repeat 0", "bench: --repeat: expected a whole number from 1, found `0`".into()),
        ("bench --max-seconds -1", "bench: --max-seconds: expected a number above 0, found `-1`".into()),
        ("bench --seed x", "bench: --seed: expected a whole number from 0 to 2^64 - 1, found `x`".into()),
        ("bench --plot picture.png", "bench: --plot needs a file name that ends in .svg".into()),
        ("bench --plot a.svg --output a.svg", "bench: --plot and --output cannot be the same file".into()),
        ("bench --output a --compare a", "bench: --compare and --output cannot be the same file".into()),
        (
            "bench linear --flag rule=lambda",
            "linear: --rule: expected linear, gated, delta or gated-delta, found `lambda`".into(),
        ),
        ("bench --backend cpu --adapter 0", "--adapter cannot be used with --backend cpu".into()),
    ] {
        place.refuse(arguments, 2, &sentence);
    }
    assert_eq!(place.run("bench nonsense").code, 2);
    assert_eq!(place.run("bench --format xml").code, 2);
    assert_eq!(place.run("bench --adapter no-such-adapter").code, 4);
    place.refuse(
        "bench --backend cpu --output no/such/dir.json",
        1,
        "no/such/dir.json: cannot be written: expected a directory no/such, found none",
    );
}

/// An interrupt ends the run after the timing in hand; results so far are written, and say that they are not all.
#[cfg(unix)]
#[test]
fn an_interrupted_run_keeps_what_it_has() {
    let place = Place::new();
    let words = "bench linear --backend cpu --heads 1 --dim 8 --length 32-4096+32 --repeat 100000 --max-seconds 0.3 --quiet \
                 --format json --output r.json";
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_subquad"))
        .current_dir(place.path(""))
        .args(words.split_whitespace())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the command starts");
    let started = Instant::now();
    while !place.path("r.json").exists() {
        assert_eq!(child.try_wait().expect("a process"), None, "no row, and an end");
        assert!(started.elapsed() < Duration::from_secs(120), "no row after two minutes");
        std::thread::sleep(Duration::from_millis(20));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    let status = child.wait().expect("an end");
    assert_eq!(status.code(), Some(130), "{status}");
    let run = json(&std::fs::read_to_string(place.path("r.json")).expect("results"));
    let rows = run["adapters"][0]["rows"].as_array().expect("rows");
    assert_eq!(run["interrupted"], true);
    assert!(
        !rows.is_empty() && rows.len() < 128 && rows.iter().all(|row| row["status"] == "ok"),
        "{} rows",
        rows.len()
    );
}
