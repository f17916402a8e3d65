//! The one error type. Every variant names the operator, the tensor or limit, what was expected and what was found.

use std::path::PathBuf;

/// What can go wrong, in one sentence fit for a user.
///
/// All errors of the GPU path arise in [`Plan::new`](crate::gpu::Plan::new), [`Plan::bind`](crate::gpu::Plan::bind)
/// or at the edge ([`readback`](crate::gpu::readback)); recording never fails.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has another shape, rank or dtype than the operator needs.
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
    /// A tensor the operator needs was not given.
    #[error("{op}: tensor `{tensor}`: expected {expected}, found none (given: {given})")]
    Missing {
        /// Operator.
        op: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// Its axes.
        expected: String,
        /// Names of the tensors that were given.
        given: String,
    },
    /// A setting that contradicts a tensor or another setting.
    #[error("{op}: `{setting}`: expected {expected}, found {found}")]
    Setting {
        /// Operator.
        op: &'static str,
        /// Flag or field.
        setting: String,
        /// What would do.
        expected: String,
        /// What was given.
        found: String,
    },
    /// Something does not fit the device.
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
    /// A kernel that does not compile or whose bindings are not those declared. A defect of this crate.
    #[error("kernel {kernel}: {message}")]
    Kernel {
        /// Entry point.
        kernel: String,
        /// Compiler's message with file and line.
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
    /// What is wrong by the command line alone (exit code 2).
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// A tensor that is not as the operator needs it.
    pub fn tensor(
        op: &'static str,
        tensor: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Tensor { op, tensor: tensor.into(), expected: expected.into(), found: found.into() }
    }

    /// A setting that is not as the operator needs it.
    pub fn setting(
        op: &'static str,
        setting: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Setting { op, setting: setting.into(), expected: expected.into(), found: found.into() }
    }

    /// A file that cannot be read or written.
    pub fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::File { path: path.into(), message: message.into() }
    }
}
