//! The results of a run of `bench`: one record per shape, with its fields in a fixed order. CSV, JSON and JSON lines
//! contain these records.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::super::report;
use super::matrix::Job;
use crate::gpu::{Cost, Spread};
use crate::measure::Measured;
use crate::measure::roofline::{Bound, Roofline};

/// The commit of this build, followed by `+` if the tree had changes; none outside a checkout.
pub(super) const COMMIT: Option<&str> = option_env!("SUBQUAD_COMMIT");

/// Date, host and command line of a run.
pub(super) struct Occasion {
    /// UTC: `2026-11-24T15:04:05Z`.
    pub date: String,
    /// Processor model and number of cores.
    pub host: String,
    /// Arguments as typed.
    pub command: String,
}

impl Occasion {
    /// The present one.
    pub(super) fn now() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let words = std::env::args().skip(1).map(|word| {
            let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_graphic() && !"'\"$`\\*".contains(c));
            if plain { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
        });
        let command = ["subquad".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ");
        Self { date: utc(seconds), host: host(), command }
    }

    /// The date without the time.
    pub(super) fn day(&self) -> &str {
        self.date.split('T').next().unwrap_or_default()
    }
}

/// A time in seconds since 1970 as a date of the proleptic Gregorian calendar.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86400, seconds % 86400);
    // Years are counted from March, so that a leap day is the last; 400 years have 146097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn host() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = model.unwrap_or_else(|| format!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    format!("{model} x {cores}")
}

/// An adapter or the `cpu` backend, with its results.
pub(super) struct Site {
    /// Name of the adapter, or `cpu`.
    pub adapter: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `cpu`.
    pub backend: &'static str,
    /// Name and version of the driver; threads on the `cpu` backend.
    pub driver: String,
    /// Whether it is a software adapter, which runs on the CPU.
    pub software: bool,
    /// Its ceilings; none if they could not be measured.
    pub ceilings: Option<Roofline>,
    /// Results in the order of measuring.
    pub rows: Vec<Row>,
}

impl Site {
    /// For people: `llvmpipe (LLVM 19.1.7, 256 bits), vulkan, software`.
    pub(super) fn title(&self) -> String {
        let software = if self.software { ", software" } else { "" };
        match self.backend {
            "cpu" => format!("cpu, {}", self.driver),
            backend => format!("{}, {backend}{software}", self.adapter),
        }
    }

    /// Name of a folder for its records.
    pub(super) fn folder(&self) -> String {
        // Software drivers add the version of their compiler to the name.
        let name = self.adapter.split(" (").next().unwrap_or_default();
        let name = if self.backend == "cpu" { name.to_owned() } else { format!("{name} {}", self.backend) };
        let words: Vec<_> = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        words.join("-").to_ascii_lowercase()
    }
}

/// A shape of an operator and its result.
pub(super) struct Row {
    pub job: Job,
    pub outcome: Outcome,
}

/// The result of a shape.
pub(super) enum Outcome {
    /// Measured, or found wrong.
    Ran(Box<Ran>),
    /// The operator or the device refuses the shape, or it was given up.
    Refused(String),
    /// The device was lost, out of memory, or failed otherwise.
    Failed(String),
}

/// The measurements of a shape.
pub(super) struct Ran {
    pub measured: Measured,
    /// Essential work.
    pub cost: Cost,
    /// Number of rows that were compared with the reference.
    pub rows: usize,
    /// Seconds to copy the same bytes.
    pub copy: f64,
    /// Roofline time of the essential work in seconds, and the limit that sets it.
    pub floor: (f64, Bound),
}

impl Ran {
    /// Seconds per run; none if the result is wrong.
    pub(super) fn time(&self) -> Option<Spread> {
        self.measured.kernel.map(|kernel| kernel.time)
    }
}

impl Row {
    /// `ok`, `wrong`, `refused` or `failed`.
    pub(super) fn status(&self) -> &'static str {
        match &self.outcome {
            Outcome::Ran(ran) if ran.measured.kernel.is_some() => "ok",
            Outcome::Ran(_) => "wrong",
            Outcome::Refused(_) => "refused",
            Outcome::Failed(_) => "failed",
        }
    }

    /// The measurements, if it ran.
    pub(super) fn ran(&self) -> Option<&Ran> {
        match &self.outcome {
            Outcome::Ran(ran) => Some(ran),
            Outcome::Refused(_) | Outcome::Failed(_) => None,
        }
    }

    /// Seconds per run, if it ran and the result is right.
    pub(super) fn time(&self) -> Option<Spread> {
        self.ran().and_then(Ran::time)
    }

    /// All axes: `B=1,H=8`.
    pub(super) fn shape(&self) -> String {
        self.job.shape.iter().map(|(letter, length)| format!("{letter}={length}")).collect::<Vec<_>>().join(",")
    }

    /// All fields of the record. Fields without a value are null, so that all rows have the same fields.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let ran = self.ran();
        let measured = ran.map(|ran| &ran.measured);
        let kernel = measured.and_then(|measured| measured.kernel);
        let cold = measured.and_then(|measured| measured.cold);
        let prepared = measured.and_then(|measured| measured.prepared);
        let number = |x: Option<f64>| x.map_or(Value::Null, report::number);
        let us = |x: Option<f64>| number(x.map(|seconds| round(seconds * 1e6)));
        let time = |f: fn(Spread) -> f64| us(kernel.map(|kernel| f(kernel.time)));
        let per = |f: fn(&Ran, f64) -> f64| number(ran.and_then(|ran| Some(round(f(ran, ran.time()?.median)))));
        let case = &self.job.case;
        let pairs = [
            ("operator", json!(self.job.op.name)),
            ("flags", json!(super::super::options::as_typed(self.job.op, &case.flags))),
            ("dtype", json!(case.dtype.name())),
            ("layout", json!(self.job.op.layout_name(case.layout))),
            ("length", json!(self.job.length())),
            ("shape", json!(self.shape())),
            ("status", json!(self.status())),
            ("time_us", time(|time| time.median)),
            ("p10_us", time(|time| time.p10)),
            ("p90_us", time(|time| time.p90)),
            ("min_us", time(|time| time.min)),
            ("clock", kernel.map_or(Value::Null, |kernel| json!(kernel.clock.name()))),
            ("wall_us", us(kernel.map(|kernel| kernel.wall.median))),
            ("timings", json!(kernel.map(|kernel| kernel.time.count))),
            ("runs_a_timing", json!(kernel.map(|kernel| kernel.runs))),
            ("stamps_rejected", json!(kernel.map(|kernel| kernel.rejected))),
            ("gb_s", per(|ran, time| ran.cost.bytes() / time / 1e9)),
            ("gflop_s", per(|ran, time| ran.cost.flops / time / 1e9)),
            ("gexp_s", per(|ran, time| ran.cost.exps / time / 1e9)),
            ("copy_us", us(ran.map(|ran| ran.copy))),
            ("times_copy", per(|ran, time| time / ran.copy)),
            ("floor_us", us(ran.map(|ran| ran.floor.0))),
            ("times_floor", per(|ran, time| time / ran.floor.0)),
            ("floor_by", json!(ran.map(|ran| ran.floor.1.name()))),
            ("ns_a_token", number(kernel.map(|kernel| round(kernel.time.median * 1e9 / self.job.length() as f64)))),
            ("bytes", number(ran.map(|ran| ran.cost.bytes()))),
            ("flops", number(ran.map(|ran| ran.cost.flops))),
            ("exps", number(ran.map(|ran| ran.cost.exps))),
            ("workspace_bytes", json!(measured.map(|measured| measured.workspace_bytes))),
            ("error", number(measured.map(|measured| measured.verdict.error))),
            ("error_bound", number(measured.map(|measured| measured.verdict.bound))),
            ("rows_checked", json!(ran.map(|ran| ran.rows))),
            ("cold_plan_us", us(cold.map(|cold| cold.plan))),
            ("cold_first_run_us", us(cold.map(|cold| cold.first_run))),
            ("bind_us", us(prepared.map(|prepared| prepared.bind))),
            ("encode_us_a_dispatch", us(prepared.map(|prepared| prepared.encode))),
            ("dispatches", json!(prepared.map(|prepared| prepared.dispatches))),
            ("variant", json!(measured.map(|measured| &measured.variant))),
            (
                "message",
                match &self.outcome {
                    Outcome::Ran(_) => Value::Null,
                    Outcome::Refused(text) | Outcome::Failed(text) => json!(text),
                },
            ),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// Rounds to six significant digits, more than any clock here resolves.
pub(super) fn round(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let scale = 10f64.powi(5 - x.abs().log10().floor() as i32);
    if scale.is_finite() && scale > 0.0 { (x * scale).round() / scale } else { x }
}

/// The first fields of every record.
pub(super) fn occasion(occasion: &Occasion) -> Map<String, Value> {
    let pairs = [
        ("schema", json!(report::SCHEMA)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("commit", json!(COMMIT)),
        ("date", json!(occasion.date)),
        ("host", json!(occasion.host)),
        ("command_line", json!(occasion.command)),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The fields of an adapter.
pub(super) fn site(site: &Site) -> Map<String, Value> {
    let pairs = [
        ("adapter", json!(site.adapter)),
        ("backend", json!(site.backend)),
        ("driver", json!(site.driver)),
        ("software", json!(site.software)),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The fields of the ceilings; null if they are not known.
pub(super) fn ceilings(ceilings: Option<&Roofline>) -> Map<String, Value> {
    let number = |f: &dyn Fn(&Roofline) -> Option<f64>| {
        ceilings.and_then(|ceilings| f(ceilings).map(|x| report::number(round(x)))).unwrap_or(Value::Null)
    };
    let pairs = [
        ("ceiling_copy_gb_s", number(&|c| Some(c.copy / 1e9))),
        ("ceiling_copy_bytes", json!(ceilings.map(|c| c.copy_bytes))),
        ("ceiling_multiply_add_gflop_s", number(&|c| Some(c.multiply_add / 1e9))),
        ("ceiling_exp2_g_s", number(&|c| Some(c.exp2 / 1e9))),
        ("empty_dispatch_us", number(&|c| Some(c.dispatch? * 1e6))),
        ("submit_and_wait_us", number(&|c| Some(c.submit.median * 1e6))),
        ("ceiling_stamps_rejected", json!(ceilings.map(|c| c.rejected))),
        ("empty_pass_us", number(&|c| c.dispatch.map(|_| c.overhead.pass * 1e6))),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_by_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (1_798_761_600, "2027-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }

    #[test]
    fn six_digits() {
        assert_eq!([round(123.456789), round(0.000123456789), round(0.0)], [123.457, 0.000123457, 0.0]);
        assert_eq!(round(123456789.0), 123457000.0);
        assert!(round(f64::INFINITY).is_infinite());
    }

    #[test]
    fn a_folder_is_named_after_adapter_and_backend() {
        let site = |adapter: &str, backend| Site {
            adapter: adapter.into(),
            backend,
            driver: String::new(),
            software: false,
            ceilings: None,
            rows: Vec::new(),
        };
        assert_eq!(site("llvmpipe (LLVM 19.1.7, 256 bits)", "vulkan").folder(), "llvmpipe-vulkan");
        assert_eq!(site("NVIDIA H100 80GB HBM3", "vulkan").folder(), "nvidia-h100-80gb-hbm3-vulkan");
        assert_eq!(site("cpu", "cpu").folder(), "cpu");
    }
}
