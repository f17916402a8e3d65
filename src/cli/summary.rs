//! What `subquad run` says about a run: lines for people, or one JSON object.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::options::Options;
use super::report;
use super::target::Target;
use crate::ops::Op;
use crate::ops::tolerance::Verdict;
use crate::tensor::{DType, TensorMap};

/// Everything there is to say.
pub struct Summary<'a> {
    pub op: &'a Op,
    pub options: &'a Options,
    pub target: &'a Target,
    pub dtype: DType,
    pub variant: &'a str,
    pub wall: Duration,
    pub workspace_bytes: u64,
    /// Outputs, then state.
    pub written: Vec<Written<'a>>,
    pub verdicts: &'a [(String, Verdict)],
    /// Parameters drawn from the seed.
    pub drawn: &'a TensorMap,
    pub warnings: &'a [String],
}

/// Tensors, and the file they went to.
pub struct Written<'a> {
    pub path: Option<&'a Path>,
    pub tensors: &'a TensorMap,
}

impl Summary<'_> {
    fn verdict(&self, name: &str) -> Option<&Verdict> {
        self.verdicts.iter().find(|(of, _)| of == name).map(|(_, verdict)| verdict)
    }

    /// Lines of a key and a value.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: String| {
            let _ = writeln!(text, "{key:<10} {value}");
        };
        line("operator", self.op.name.to_owned());
        line("ran on", self.target.to_string());
        line("variant", self.variant.to_owned());
        line("time", report::duration(self.wall));
        if self.workspace_bytes > 0 {
            line("workspace", report::bytes(self.workspace_bytes));
        }
        for Written { path, tensors } in &self.written {
            for (name, tensor) in tensors.iter() {
                let file = path.map_or_else(String::new, |path| format!(" -> {}", path.display()));
                line(name, format!("{} {}{file}", tensor.dtype(), tensor.shape()));
                if let Some(verdict) = self.verdict(name) {
                    line("", judgement(verdict));
                }
            }
        }
        text
    }

    /// One object; `report::SCHEMA` tells its version.
    pub fn json(&self) -> Value {
        let mut flags = Map::new();
        for (name, value) in self.options.flags.iter() {
            flags.insert(name.to_owned(), Value::from(value));
        }
        let mut tensors = self.written.iter().map(|written| self.tensors(written));
        let (outputs, state) = (tensors.next().unwrap_or_default(), tensors.next().unwrap_or_default());
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
            "layout": self.options.layout.name(),
            "dtype": self.dtype.name(),
            "seed": self.options.seed,
            "seconds": self.wall.as_secs_f64(),
            "workspace_bytes": self.workspace_bytes,
            "outputs": outputs,
            "state": state,
            "verified": if self.options.verify {
                Value::from(self.verdicts.iter().all(|(_, verdict)| verdict.ok))
            } else {
                Value::Null
            },
            "drawn": self.drawn.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "warnings": self.warnings,
        })
    }

    fn tensors(&self, written: &Written<'_>) -> Vec<Value> {
        let one = |(name, tensor): (&str, &crate::tensor::HostTensor)| {
            let mut object = Map::new();
            object.insert("name".into(), Value::from(name));
            object.insert("dtype".into(), Value::from(tensor.dtype().name()));
            object.insert("shape".into(), Value::from(tensor.shape().dims().to_vec()));
            object.insert("file".into(), written.path.map(|path| path.display().to_string()).into());
            if let Some(verdict) = self.verdict(name) {
                object.insert("error".into(), report::number(verdict.error));
                object.insert("bound".into(), report::number(verdict.bound));
                object.insert("ok".into(), Value::from(verdict.ok));
            }
            Value::Object(object)
        };
        written.tensors.iter().map(one).collect()
    }
}

/// An error, its bound, and which is larger.
pub fn judgement(verdict: &Verdict) -> String {
    let word = if verdict.ok { "ok" } else { "FAILED" };
    format!("relative RMS error {:.2e}, bound {:.2e}: {word}", verdict.error, verdict.bound)
}
