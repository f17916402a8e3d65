//! Compares what a kernel needs, read from its WGSL by naga, with the limits of a device. Works without a device.
//!
//! wgpu 30 checks a pipeline before overrides are resolved. A workgroup size or workgroup memory that depends on an
//! override is therefore not checked, and may fail inside the driver. This module resolves the overrides first.

use wgpu::naga;

use super::shader::{Assembled, Bind, Kernel, Variant, assemble, bindings, first_binding, unpacks_halves};
use crate::error::Error;

/// Resources that a kernel needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Invocations in x, y, z.
    pub workgroup: [u32; 3],
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Storage bindings.
    pub storage_buffers: u32,
}

/// A kernel as naga sees it: overrides resolved, validated.
#[derive(Debug)]
pub struct Resolved {
    /// The WGSL text it was parsed from.
    pub source: Assembled,
    /// The module without overrides.
    pub module: naga::Module,
    /// Results of naga's validator.
    pub info: naga::valid::ModuleInfo,
}

fn defect(kernel: &Kernel, message: impl Into<String>) -> Error {
    Error::Kernel { kernel: kernel.name.into(), message: message.into() }
}

/// The naga capabilities that kernels of this crate may use beyond plain WGSL.
pub fn capabilities() -> naga::valid::Capabilities {
    naga::valid::Capabilities::SHADER_FLOAT16
        | naga::valid::Capabilities::SUBGROUP
        | naga::valid::Capabilities::COOPERATIVE_MATRIX
}

/// Parses, validates and specialises a kernel.
///
/// # Errors
/// [`Error::Kernel`] with file and line.
pub fn resolve(kernel: &Kernel, spec: &Variant) -> Result<Resolved, Error> {
    let source = assemble(kernel, spec);
    let module = naga::front::wgsl::parse_str(&source.text).map_err(|e| {
        let at = e.location(&source.text).map_or("?".into(), |l| source.locate(l.line_number as usize));
        defect(kernel, format!("{at}: {}", e.message()))
    })?;
    let mut allowed = capabilities();
    // lavapipe compiles unpack2x16float and its like only on devices with f16.
    allowed.set(naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32, unpacks_halves(spec));
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), allowed);
    let info = validator.validate(&module).map_err(|e| {
        let at = e.location(&source.text).map_or("?".into(), |l| source.locate(l.line_number as usize));
        defect(kernel, format!("{at}: {}", chain(e.as_inner())))
    })?;
    let constants: naga::back::PipelineConstants =
        spec.constants().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, kernel.entry));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
        .map_err(|e| defect(kernel, format!("override: {}", chain(&e))))?;
    let (module, info) = (module.into_owned(), info.into_owned());
    Ok(Resolved { source, module, info })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Returns what a resolved kernel needs, and compares its bindings and its uniform with the declaration.
///
/// # Errors
/// [`Error::Kernel`] if declaration and WGSL differ.
pub fn needs(kernel: &Kernel, spec: &Variant, resolved: &Resolved) -> Result<Needs, Error> {
    let module = &resolved.module;
    let entry = module
        .entry_points
        .iter()
        .find(|e| e.name == kernel.entry)
        .ok_or_else(|| defect(kernel, "the WGSL has no entry point of that name"))?;
    let mut workgroup_bytes = 0u32;
    let mut found: Vec<(u32, &str, Option<Bind>)> = Vec::new();
    for (_, global) in module.global_variables.iter() {
        let size = module.types[global.ty].inner.size(module.to_ctx());
        match global.space {
            naga::AddressSpace::WorkGroup => {
                // 16 is the widest alignment of any WGSL type we use.
                workgroup_bytes = workgroup_bytes.saturating_add(size.next_multiple_of(16));
            }
            naga::AddressSpace::Uniform | naga::AddressSpace::Storage { .. } => {
                let binding = global.binding.ok_or_else(|| defect(kernel, "a buffer without a binding"))?;
                if binding.group != 0 {
                    return Err(defect(kernel, format!("binding group {}, expected 0", binding.group)));
                }
                let bind = match global.space {
                    naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
                        Some(Bind::Write)
                    }
                    naga::AddressSpace::Storage { .. } => Some(Bind::Read),
                    _ => None,
                };
                let uniform = if binding.binding == 0 { Some(kernel.params) } else { spec.own };
                if let (None, Some(uniform)) = (bind, uniform)
                    && size as usize != uniform.size
                {
                    let message =
                        format!("uniform {} is {size} bytes in WGSL, {} in Rust", binding.binding, uniform.size);
                    return Err(defect(kernel, message));
                }
                found.push((binding.binding, global.name.as_deref().unwrap_or("?"), bind));
            }
            _ => {}
        }
    }
    found.sort_unstable_by_key(|f| f.0);
    let mut declared = vec![(0, "params", None)];
    declared.extend(spec.own.map(|_| (1, "own", None)));
    let storage = bindings(kernel, spec);
    let numbered = (first_binding(spec)..).zip(&storage);
    declared.extend(numbered.map(|(number, binding)| (number, binding.name, Some(binding.bind))));
    if found != declared {
        return Err(defect(kernel, format!("declared bindings {declared:?}, the WGSL has {found:?}")));
    }
    Ok(Needs { workgroup: entry.workgroup_size, workgroup_bytes, storage_buffers: storage.len() as u32 })
}

/// Refuses a kernel that exceeds a limit.
///
/// # Errors
/// [`Error::Limit`] naming the limit.
pub fn check(kernel: &Kernel, needs: &Needs, limits: &wgpu::Limits) -> Result<(), Error> {
    let [x, y, z] = needs.workgroup;
    let invocations = u64::from(x) * u64::from(y) * u64::from(z);
    for (what, needed, limit) in [
        ("workgroup invocations", invocations, limits.max_compute_invocations_per_workgroup),
        ("workgroup size x", x.into(), limits.max_compute_workgroup_size_x),
        ("workgroup size y", y.into(), limits.max_compute_workgroup_size_y),
        ("workgroup size z", z.into(), limits.max_compute_workgroup_size_z),
        ("workgroup memory (bytes)", needs.workgroup_bytes.into(), limits.max_compute_workgroup_storage_size),
        ("storage buffers", needs.storage_buffers.into(), limits.max_storage_buffers_per_shader_stage),
    ] {
        if needed > u64::from(limit) {
            let op = format!("kernel {}", kernel.name);
            return Err(Error::Limit { op, what: what.into(), needed, limit: limit.into() });
        }
    }
    Ok(())
}
