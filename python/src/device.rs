//! Devices by name: `auto`, `cpu`, `gpu`, `vulkan`, `vulkan:0`, `metal`, `dx12`, `gl:llvmpipe`. Each is opened once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use subquad::gpu::context::{self, AdapterRequest, Candidate, Select};
use subquad::operator::Operator;
use subquad::tensor::Access;
use subquad::verify::run;
use subquad::{Context, Error, TensorMap, wgpu};

/// Where an operator or a model runs.
#[derive(Clone)]
pub(crate) enum Device {
    Cpu,
    Gpu(Context),
}

impl Device {
    /// Opens a device, or takes it from those that are open.
    pub(crate) fn open(name: &str) -> Result<Self, Error> {
        static OPEN: Mutex<Option<HashMap<String, Device>>> = Mutex::new(None);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_with(HashMap::new);
        if let Some(Device::Gpu(context)) = open.get(name)
            && context.check_lost().is_err()
        {
            open.remove(name);
        }
        if let Some(device) = open.get(name) {
            return Ok(device.clone());
        }
        let device = Self::open_anew(name)?;
        open.insert(name.to_owned(), device.clone());
        Ok(device)
    }

    fn open_anew(name: &str) -> Result<Self, Error> {
        let (kind, which) = name.split_once(':').map_or((name, None), |(kind, which)| (kind, Some(which)));
        let request = match (kind, which) {
            ("cpu", None) => return Ok(Self::Cpu),
            ("auto" | "gpu", None) => AdapterRequest::default(),
            ("vulkan" | "metal" | "dx12" | "gl", which) => {
                let backends = wgpu::Backends::from_comma_list(kind);
                let select = which.map(|which| selected(backends, which)).transpose()?;
                AdapterRequest { backends, select, software: true, ..AdapterRequest::default() }
            }
            _ => {
                let known = "auto, cpu, gpu, vulkan, metal, dx12 or gl, and after one of the last four :INDEX or :NAME";
                return Err(Error::Usage(format!("device: expected {known}, found `{name}`")));
            }
        };
        match Context::open(&request) {
            Ok(context) => Ok(Self::Gpu(context)),
            Err(Error::NoAdapter(_)) if kind == "auto" => Ok(Self::Cpu),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn f16(&self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Gpu(context) => context.caps().f16,
        }
    }

    /// Runs an operator. Returns what it writes by name, and its algorithm. Tensors that were lent are written in place by the CPU.
    pub(crate) fn execute(&self, operator: &dyn Operator, mut inputs: TensorMap) -> Result<(TensorMap, String), Error> {
        match self {
            Self::Cpu => {
                operator.cpu_update(&mut inputs)?;
                let slots = operator.slots();
                let parts = slots.iter().filter(|slot| slot.access != Access::Read).flat_map(|slot| &slot.parts);
                let written = parts.filter_map(|part| Some((part.name.to_owned(), inputs.remove(part.name)?)));
                Ok((written.collect(), operator.cpu_variant()))
            }
            Self::Gpu(context) => {
                let run = run::gpu(context, operator, &inputs, false, &mut |_| {})?;
                Ok((run.outputs, run.variant))
            }
        }
    }

    /// The name of the adapter, or `cpu`.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::Gpu(context) => format!("{} ({})", context.info().name, context.info().backend),
        }
    }
}

/// The adapter of these backends with this number among them, or with this part of a name.
fn selected(backends: wgpu::Backends, which: &str) -> Result<Select, Error> {
    let Ok(index) = which.parse::<usize>() else { return Ok(Select::Name(which.to_owned())) };
    let all = context::candidates(&AdapterRequest { backends, software: true, ..AdapterRequest::default() });
    let own: Vec<_> = all.iter().filter(|one| backends.contains(one.info.backend.into())).collect();
    match own.get(index) {
        Some(one) => Ok(Select::Index(one.index)),
        None => {
            let names: Vec<_> = own.iter().map(|one| one.info.name.as_str()).collect();
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(Error::NoAdapter(format!("device: no adapter number {index} of that backend; there is: {found}")))
        }
    }
}

/// The adapters of this machine and the `cpu` backend, as dicts.
pub(crate) fn adapters(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let request = AdapterRequest { backends: wgpu::Backends::all(), software: true, ..AdapterRequest::default() };
    let found = py.detach(|| context::candidates(&request));
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut list = Vec::new();
    for one in found {
        let backend = one.info.backend.to_string();
        let index = counts.entry(backend.clone()).or_default();
        list.push(described(py, &one, format!("{backend}:{index}"))?);
        *index += 1;
    }
    let cpu = PyDict::new(py);
    cpu.set_item("device", "cpu")?;
    cpu.set_item("name", "cpu")?;
    cpu.set_item("backend", "cpu")?;
    cpu.set_item("software", true)?;
    cpu.set_item("f16", true)?;
    list.push(cpu);
    Ok(list)
}

fn described<'py>(py: Python<'py>, one: &Candidate, device: String) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("device", device)?;
    dict.set_item("name", &one.info.name)?;
    dict.set_item("backend", one.info.backend.to_string())?;
    dict.set_item("driver", one.driver())?;
    dict.set_item("software", one.software)?;
    dict.set_item("f16", one.f16)?;
    dict.set_item("tier", one.tier)?;
    dict.set_item("refused", &one.refused)?;
    Ok(dict)
}
