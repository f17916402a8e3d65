//! The error type of this crate. Every variant names the operator, the tensor or limit, what was expected and what was
//! found.

use std::path::PathBuf;

/// An error, worded as one sentence for the user.
///
/// On the GPU path, errors come from [`Plan::new`](crate::gpu::Plan::new), [`Plan::bind`](crate::gpu::Plan::bind) and
/// [`readback`](crate::gpu::readback). Recording never fails.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor whose shape, rank, dtype or values differ from what the operator needs.
    #[error("{op}: tensor `{tensor}`: expected {expected}, found {found}")]
    Tensor {
        /// Operator, as in `subquad run OP`.
        op: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// What the operator needs.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A tensor that the operator needs but that was not given.
    #[error("{op}: tensor `{tensor}`: expected {expected}, found none (given: {given})")]
    Missing {
        /// Operator.
        op: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// Its axes, or its storage type and shape.
        expected: String,
        /// Names of the tensors that were given.
        given: String,
    },
    /// A tensor that was given, would change the result, and that the operator does not read.
    #[error("{op}: tensor `{tensor}`: would change the result, and {op} does not read it; {advice}")]
    Unread {
        /// Operator.
        op: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// A setting that contradicts a tensor or another setting.
    #[error("{op}: {}{problem}", quoted(setting))]
    Setting {
        /// Operator.
        op: &'static str,
        /// Field, or the flag that gave it.
        setting: String,
        /// What is wrong with it, behind its name: `: expected 1 or more, found 0`.
        problem: String,
    },
    /// A resource that exceeds a limit of the device.
    #[error("{op}: {what} needs {needed}, the limit of this device is {limit}")]
    Limit {
        /// Operator or kernel.
        op: String,
        /// The resource, for example "buffer `q` (bytes)".
        what: String,
        /// Amount needed.
        needed: u64,
        /// Amount available.
        limit: u64,
    },
    /// Work that takes more memory of the host than there is.
    #[error("{op}: {what} needs {needed} bytes of memory, {}", left_of(*needed, *left))]
    Memory {
        /// Operator.
        op: String,
        /// What needs it.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes left, if the system says so.
        left: Option<u64>,
    },
    /// A workspace that was not grown to what a plan needs.
    #[error(
        "{op}: workspace `{workspace}`: expected {needed} bytes, found {found}; call plan.reserve(&mut workspace) before it is bound"
    )]
    Workspace {
        /// Operator.
        op: &'static str,
        /// What the buffer is for.
        workspace: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A feature that the device was made without.
    #[error("{op}: {what} needs the device feature {feature}, which this device was made without")]
    Feature {
        /// Operator.
        op: &'static str,
        /// What needs it, for example "f16 storage".
        what: &'static str,
        /// Name in `wgpu::Features`.
        feature: &'static str,
    },
    /// A kernel that does not compile, or whose bindings differ from its declaration. This is a defect of this crate.
    #[error("kernel {kernel}: {message}")]
    Kernel {
        /// Entry point.
        kernel: String,
        /// The compiler's message, with file and line.
        message: String,
    },
    /// The device was lost, ran out of memory, or refused a command.
    #[error("device: {0}")]
    Device(String),
    /// No adapter of the kind asked for. The whole sentence.
    #[error("{0}")]
    NoAdapter(String),
    /// A file that cannot be read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// Path as given.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// An error in the command line (exit code 2).
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Creates an [`Error::Tensor`].
    pub fn tensor(
        op: &'static str,
        tensor: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Tensor { op, tensor: tensor.into(), expected: expected.into(), found: found.into() }
    }

    /// Creates an [`Error::Setting`].
    pub fn setting(
        op: &'static str,
        setting: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::rule(op, setting, format!(": expected {}, found {}", expected.into(), found.into()))
    }

    /// A setting that breaks a rule: `problem` follows its name, as " needs the causal form" does.
    pub fn rule(op: &'static str, setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Setting { op, setting: setting.into(), problem: problem.into() }
    }

    /// What a device said, which wgpu spreads over several lines, in one.
    pub(crate) fn device(said: impl std::fmt::Display) -> Self {
        let said = said.to_string();
        Self::Device(said.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// A file that cannot be read or written.
    pub fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::File { path: path.into(), message: message.into() }
    }
}

/// Clause with the bytes of memory left, if fewer than needed are.
fn left_of(needed: u64, left: Option<u64>) -> String {
    match left.filter(|left| *left < needed) {
        Some(left) => format!("this machine has {left} left"),
        None => "more than this machine gives".into(),
    }
}

/// Puts a field name in backticks; returns a flag as the user writes it.
fn quoted(setting: &str) -> String {
    if setting.starts_with("--") { setting.to_owned() } else { format!("`{setting}`") }
}
