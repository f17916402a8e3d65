//! The summary that `subquad run` prints: lines for people, or one JSON object.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::headers::ReadAs;
use super::options::Options;
use super::report;
use super::target::Target;
use crate::catalog::attention::LSE;
use crate::catalog::spec::Op;
use crate::tensor::{DType, TensorMap};
use crate::verify::tolerance::{Comparison, WrongRow};

/// The contents of a summary.
pub(super) struct Summary<'a> {
    pub op: &'a Op,
    pub options: &'a Options,
    pub target: &'a Target,
    pub dtype: DType,
    pub variant: &'a str,
    pub wall: Duration,
    pub workspace_bytes: u64,
    /// How the shapes of the inputs were read.
    pub read: &'a [ReadAs],
    /// Outputs, then the state, then the summary of the piece, then the logarithms of the sums.
    pub written: [Written<'a>; 4],
    /// Parameters drawn from the seed.
    pub drawn: &'a TensorMap,
    pub warnings: &'a [String],
}

/// Tensors, and the file they went to.
pub(super) struct Written<'a> {
    pub path: Option<&'a Path>,
    pub tensors: &'a TensorMap,
    /// How far they are from the reference, by name; of `--verify`.
    pub verdicts: &'a [(String, Comparison)],
}

impl Written<'_> {
    fn verdict(&self, name: &str) -> Option<&Comparison> {
        self.verdicts.iter().find(|(of, _)| of == name).map(|(_, verdict)| verdict)
    }

    fn json(&self) -> Vec<Value> {
        let one = |(name, tensor): (&str, &crate::tensor::HostTensor)| {
            let mut object = Map::new();
            object.insert("name".into(), Value::from(name));
            object.insert("dtype".into(), Value::from(tensor.dtype().name()));
            object.insert("shape".into(), Value::from(tensor.shape().dims().to_vec()));
            object.insert("file".into(), self.path.map(|path| path.display().to_string()).into());
            if let Some(verdict) = self.verdict(name) {
                object.insert("error".into(), report::number(verdict.error));
                object.insert("bound".into(), report::number(verdict.bound));
                object.insert("ok".into(), Value::from(verdict.ok));
                object.insert("reason".into(), reason(verdict).into());
            }
            Value::Object(object)
        };
        self.tensors.iter().map(one).collect()
    }
}

impl Summary<'_> {
    /// Lines of a key and a value.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: String| {
            let _ = writeln!(text, "{key:<10} {value}");
        };
        line("operator", self.op.name.to_owned());
        line("ran on", self.target.to_string());
        let width = self.read.iter().map(|read| read.name.len()).max().unwrap_or(0);
        for (at, read) in self.read.iter().enumerate() {
            line(if at == 0 { "input" } else { "" }, format!("{:<width$} {}", read.name, read.text()));
        }
        line("variant", self.variant.to_owned());
        line("time", format!("{} ({})", report::duration(self.wall), self.timed()));
        if self.workspace_bytes > 0 {
            line("workspace", report::bytes(self.workspace_bytes));
        }
        for written in &self.written {
            for (name, tensor) in written.tensors.iter() {
                let file = written.path.map_or_else(String::new, |path| format!(" -> {}", report::path(path)));
                line(name, format!("{} {}{file}", tensor.dtype(), tensor.shape()));
                if let Some(verdict) = written.verdict(name) {
                    line("", judgement(verdict));
                }
            }
        }
        text
    }

    /// What the time includes.
    fn timed(&self) -> &'static str {
        match self.target {
            Target::Cpu => "computation only, without reading and writing files",
            Target::Gpu(_) => {
                "first run on the GPU: input copies and kernels, without creating pipelines and reading back"
            }
        }
    }

    /// One object. `report::SCHEMA` is its version.
    pub(super) fn json(&self) -> Value {
        let mut flags = Map::new();
        for (name, value) in self.options.flags.iter().filter(|(name, _)| *name != LSE.name) {
            flags.insert(name.to_owned(), Value::from(value));
        }
        let [mut outputs, state, summary, lse] = self.written.each_ref().map(Written::json);
        outputs.extend(lse);
        let mut verdicts = self.written.iter().flat_map(|written| written.verdicts);
        json!({
            "schema": report::SCHEMA,
            "command": "run",
            "version": env!("CARGO_PKG_VERSION"),
            "operator": self.op.name,
            "flags": flags,
            "backend": self.target.backend(),
            "adapter": self.target.adapter(),
            "threads": self.target.threads(),
            "variant": self.variant,
            "layout": self.op.layout_name(self.options.layout),
            "dtype": self.dtype.name(),
            "seed": self.options.seed,
            "inputs": self.read.iter().map(input).collect::<Vec<_>>(),
            "seconds": self.wall.as_secs_f64(),
            "seconds_include": self.timed(),
            "workspace_bytes": self.workspace_bytes,
            "outputs": outputs,
            "state": state,
            "summary": summary,
            "verified": if self.options.verify {
                Value::from(verdicts.all(|(_, verdict)| verdict.ok))
            } else {
                Value::Null
            },
            "drawn": self.drawn.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "warnings": self.warnings,
        })
    }
}

/// One input: its shape in the file, and the axes that it was read as.
fn input(read: &ReadAs) -> Value {
    let axes: Map<_, _> = read.axes.iter().map(|(letter, length)| ((*letter).to_owned(), json!(length))).collect();
    json!({"name": read.name, "dtype": read.dtype.name(), "shape": read.shape.dims(), "axes": axes})
}

/// Why an output failed, or why its error or tolerance is null; none if it passed with both.
fn reason(verdict: &Comparison) -> Option<String> {
    let null = |name: &str, x| report::why_null(x).map(|why| format!("the {name} is {why}"));
    let mut reasons: Vec<_> = [("error", verdict.error), ("bound", verdict.bound)]
        .into_iter()
        .filter_map(|(name, x)| null(name, x))
        .collect();
    reasons.extend(verdict.overflow.map(overflow_text));
    if reasons.is_empty() && verdict.error > verdict.bound {
        reasons.push("the error exceeds the bound".into());
    }
    reasons.extend(verdict.row.map(|row| row_text(&row)));
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

fn overflow_text(dtype: DType) -> String {
    let more = if dtype == DType::F16 { " (--dtype f32 has more room)" } else { "" };
    format!("the definition itself overflows in {dtype}{more}")
}

fn row_text(row: &WrongRow) -> String {
    let WrongRow { at, of, error, bound } = row;
    format!("row {at} of {of} is off by {error:.2e}, {bound:.2e} allowed")
}

/// The error and its bound in words, for people.
pub(super) fn judgement(verdict: &Comparison) -> String {
    let Comparison { error, bound, row, overflow, ok } = verdict;
    let mut text = format!("relative RMS error {error:.2e}, bound {bound:.2e}");
    if let Some(row) = row {
        text += &format!("; {}", row_text(row));
    }
    if let Some(dtype) = overflow {
        text += &format!("; {}", overflow_text(*dtype));
    }
    text + if *ok { ": ok" } else { ": FAILED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_and_a_null_have_a_reason() {
        let reason = |error, bound, ok| reason(&Comparison { error, bound, row: None, overflow: None, ok });
        assert_eq!(reason(1e-7, 1e-6, true), None);
        assert_eq!(reason(1e-5, 1e-6, false).as_deref(), Some("the error exceeds the bound"));
        assert_eq!(reason(f64::INFINITY, 1e-6, false).as_deref(), Some("the error is infinite"));
        let both = reason(f64::NAN, f64::INFINITY, false);
        assert_eq!(both.as_deref(), Some("the error is not a number, the bound is infinite"));
        let overflow = Some(DType::F16);
        let over = Comparison { error: f64::NAN, bound: f64::INFINITY, row: None, overflow, ok: false };
        let text = "the error is not a number, the bound is infinite, the definition itself overflows in f16 (--dtype f32 has \
                    more room)";
        assert_eq!(super::reason(&over).as_deref(), Some(text));
        let row = Some(WrongRow { at: 3, of: 8, error: 0.5, bound: 1e-5 });
        let one = super::reason(&Comparison { error: 1e-7, bound: 1e-6, row, overflow: None, ok: false });
        assert_eq!(one.as_deref(), Some("row 3 of 8 is off by 5.00e-1, 1.00e-5 allowed"));
    }
}
