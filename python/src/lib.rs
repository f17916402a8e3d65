//! The module `subquad._core` of the Python package: operators by name on NumPy arrays, devices, models, the command. What users
//! call is written in Python around it (`python/subquad`).
#![allow(clippy::too_many_arguments)]

mod arrays;
mod device;
mod model;
mod operators;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::adapters;
    #[pymodule_export]
    use super::command;
    #[pymodule_export]
    use super::device_name;
    #[pymodule_export]
    use super::panics;
    #[pymodule_export]
    use crate::model::{Draws, Model};
    #[pymodule_export]
    use crate::operators::{bench, merge, run};
}

/// The adapters of this machine and the `cpu` backend.
#[pyfunction]
fn adapters(py: Python<'_>) -> PyResult<Vec<Bound<'_, pyo3::types::PyDict>>> {
    device::adapters(py)
}

/// Opens a device and returns the name of its adapter.
#[pyfunction]
fn device_name(py: Python<'_>, device: &str) -> PyResult<String> {
    operators::detached(py, || Ok(device::Device::open(device)?.name()))
}

/// The command `subquad` with these arguments. Returns its exit code.
#[pyfunction]
fn command(py: Python<'_>, arguments: Vec<std::ffi::OsString>) -> u8 {
    py.detach(|| subquad::cli::main(arguments, false))
}

/// Panics, for a test of what becomes of that.
#[pyfunction]
fn panics(py: Python<'_>) -> PyResult<()> {
    operators::detached(py, || panic!("asked for by a test"))
}
