//! The command as a user meets it: exit codes, messages, files. Tests run on the `cpu` backend or fail before an adapter is
//! opened. One test needs an adapter, unless SUBQUAD_ALLOW_NO_ADAPTER=1.
#![cfg(feature = "cli")]

#[path = "cli/attention.rs"]
mod attention;
#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/channels.rs"]
mod channels;
#[path = "cli/checkpoints.rs"]
mod checkpoints;
#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/forms.rs"]
mod forms;
#[path = "cli/harmless.rs"]
mod harmless;
#[path = "cli/merging.rs"]
mod merging;
#[path = "cli/models.rs"]
mod models;
#[path = "cli/packed.rs"]
mod packed;
#[path = "cli/parts.rs"]
mod parts;
#[path = "cli/processes.rs"]
mod processes;
#[path = "cli/refused.rs"]
mod refused;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/states.rs"]
mod states;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/tips.rs"]
mod tips;
#[path = "cli/weights.rs"]
mod weights;
#[path = "cli/wgsl.rs"]
mod wgsl;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use subquad::io;
use subquad::tensor::{DType, HostTensor, Shape, TensorMap, Values};

/// The names that an unknown operator is answered with.
fn known_operators() -> String {
    let names = |ops: &[subquad::catalog::spec::Op]| ops.iter().map(|op| op.name).collect::<Vec<_>>().join(", ");
    format!("operators: {}; parts: {}", names(subquad::ops::OPS), names(subquad::ops::PARTS))
}

/// A new directory to run the command in.
struct Place(tempfile::TempDir);

/// How a command ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_subquad"));
        command.current_dir(self.0.path()).args(arguments);
        for variable in ["WGPU_BACKEND", "WGPU_ADAPTER_NAME", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs the command; its arguments are split at spaces.
    fn run(&self, arguments: &str) -> Ran {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        Ran::of(&mut self.command(&arguments))
    }

    /// Runs the command, which must succeed, and returns stdout.
    fn done(&self, arguments: &str) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments}: {ran:?}");
        ran.out
    }

    /// Runs the command, which must be refused with this code and exactly this sentence, and write nothing.
    #[track_caller]
    fn refuse(&self, arguments: &str, code: i32, sentence: &str) {
        let before = self.names();
        let ran = self.run(arguments);
        assert_eq!(ran.err, format!("error: {sentence}\n"), "{arguments}");
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{arguments}");
        assert_eq!(self.names(), before, "{arguments} left files behind");
    }

    fn remove(&self, files: &[&str]) {
        files.iter().for_each(|file| std::fs::remove_file(self.path(file)).expect("a file to remove"));
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("the temporary directory");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Writes a file of these tensors, filled with numbers in [-1, 1) that depend on place and name.
    fn write(&self, file: &str, tensors: &[(&str, &[usize])]) {
        let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), filled(name, shape))).collect();
        self.write_map(file, &tensors);
    }

    fn write_map(&self, file: &str, tensors: &TensorMap) {
        io::write(&self.path(file), tensors, &BTreeMap::new()).expect("a written file");
    }

    fn read(&self, file: &str) -> io::TensorFile {
        io::read(&self.path(file)).expect("a file to read")
    }

    fn tensor(&self, file: &str, name: &str) -> HostTensor {
        self.read(file).tensors.get(name).cloned().unwrap_or_else(|| panic!("{file} has no {name}"))
    }
}

impl Ran {
    fn of(command: &mut assert_cmd::Command) -> Self {
        let output = command.output().expect("the command starts");
        Self {
            code: output.status.code().expect("an exit code"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn filled(name: &str, shape: &[usize]) -> HostTensor {
    let shape = Shape::from(shape);
    let mut word = name.bytes().fold(0x9e37_79b9_u32, |word, byte| word.rotate_left(5) ^ u32::from(byte));
    let values = (0..shape.count()).map(|_| {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (word >> 8) as f32 / (1 << 23) as f32 - 1.0
    });
    let values = values.collect();
    HostTensor::f32(shape, values)
}

/// The tensor with axes one and two swapped.
fn swapped(tensor: &HostTensor) -> HostTensor {
    let [b, x, y, d] = *tensor.shape().dims() else { panic!("four axes") };
    let from = tensor.to_f32();
    let mut to = vec![0.0; from.len()];
    for i in 0..b {
        for j in 0..x {
            for k in 0..y {
                let (at, into) = (((i * x + j) * y + k) * d, ((i * y + k) * x + j) * d);
                to[into..into + d].copy_from_slice(&from[at..at + d]);
            }
        }
    }
    HostTensor::f32([b, y, x, d], to)
}

/// Rows `from..to` of axis 2.
fn rows(tensor: &HostTensor, from: usize, to: usize) -> HostTensor {
    let [b, h, n, d] = *tensor.shape().dims() else { panic!("four axes") };
    let values = tensor.to_f32();
    let cut = values.chunks(n * d).flat_map(|head| head[from * d..to * d].iter().copied()).collect();
    HostTensor::f32([b, h, to - from, d], cut)
}

fn half_of(tensor: &HostTensor) -> HostTensor {
    let values = tensor.to_f32().into_iter().map(f16::from_f32).collect();
    HostTensor::new(tensor.shape().clone(), Values::F16(values))
}

/// A safetensors file with this header and this many bytes of data.
fn raw(path: &Path, header: &str, data: usize) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    std::fs::write(path, bytes).expect("a written file");
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

const PLAIN: &[(&str, &[usize])] = &[("q", &[1, 2, 6, 4]), ("k", &[1, 2, 6, 4]), ("v", &[1, 2, 6, 3])];

fn same(a: &HostTensor, b: &HostTensor) {
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
    assert_eq!(a.bytes(), b.bytes());
}

fn close(a: &HostTensor, b: &HostTensor) {
    assert_eq!(a.shape(), b.shape());
    let error = subquad::verify::tolerance::relative_rms(&a.to_f64(), &b.to_f64());
    assert!(error < if a.dtype() == DType::F16 { 1e-3 } else { 1e-6 }, "relative RMS {error:.2e}");
}
