//! Creates pipelines from a kernel and a specialisation, after checking them against the device, and caches them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::caps::Caps;
#[cfg(not(target_arch = "wasm32"))]
use super::limits;
use super::shader::{Bind, Kernel, Variant, assemble, bindings};
use crate::error::Error;

/// A compiled kernel.
#[derive(Debug)]
pub struct Pipeline {
    /// [`Variant::label`].
    pub label: String,
    /// The wgpu object.
    pub raw: wgpu::ComputePipeline,
    /// Layout of group 0.
    pub layout: wgpu::BindGroupLayout,
    /// Invocations per workgroup, as naga found them; `[0; 3]` in a browser, where naga does not run.
    pub workgroup: [u32; 3],
}

/// Cache key: entry point, specialisation, and whether shader checks are on.
type Key = (&'static str, Variant, bool);

/// The pipelines of one device. Clones of a [`Context`](super::Context) share them.
#[derive(Debug, Default)]
pub struct KernelCache(Mutex<HashMap<Key, Arc<Pipeline>>>);

impl KernelCache {
    /// Returns the pipeline for a specialisation, and creates it if it is not cached. If `checked` is false, a kernel
    /// with a bounds proof is compiled without inserted checks; only trusted programs may ask for this.
    ///
    /// # Errors
    /// [`Error::Limit`] if the device cannot hold it, [`Error::Kernel`] if it does not compile.
    pub(crate) fn get(
        &self,
        device: &wgpu::Device,
        caps: &Caps,
        kernel: &'static Kernel,
        spec: &Variant,
        checked: bool,
    ) -> Result<Arc<Pipeline>, Error> {
        let key = (kernel.name, spec.clone(), checked);
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = lock().get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(build(device, caps, kernel, spec, checked)?);
        Ok(lock().entry(key).or_insert(pipeline).clone())
    }

    /// Empties the cache, so that the next plan creates its pipelines again. `bench` uses this to time a first use.
    /// Plans and recordings keep their own pipelines alive.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Number of cached pipelines.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn build(
    device: &wgpu::Device,
    caps: &Caps,
    kernel: &Kernel,
    spec: &Variant,
    checked: bool,
) -> Result<Pipeline, Error> {
    let label = spec.label(kernel);
    #[cfg(not(target_arch = "wasm32"))]
    let workgroup = {
        let resolved = limits::resolve(kernel, spec)?;
        let needs = limits::needs(kernel, spec, &resolved)?;
        limits::check(kernel, &needs, &caps.limits)?;
        needs.workgroup
    };
    #[cfg(target_arch = "wasm32")]
    let workgroup = [0; 3];
    tracing::debug!(label, "building a pipeline");

    let storage = bindings(kernel, spec);
    let storage = storage.iter().map(|of| wgpu::BufferBindingType::Storage { read_only: of.bind == Bind::Read });
    let own = spec.own.map(|_| wgpu::BufferBindingType::Uniform);
    let entries: Vec<_> = std::iter::once(wgpu::BufferBindingType::Uniform)
        .chain(own)
        .chain(storage)
        .enumerate()
        .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        })
        .collect();

    let source = assemble(kernel, spec);
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let layout =
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(&label),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(&label),
        source: wgpu::ShaderSource::Wgsl(source.text.as_str().into()),
    };
    let module = if kernel.bounds_proof.is_some() && !checked {
        // SAFETY: the kernel declares why its indices stay in bounds and its loops end (`bounds_proof`), given buffers
        // of the sizes that `Plan::bind` insists on. The driver's own robustness stays on.
        unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
    } else {
        device.create_shader_module(descriptor)
    };
    let constants = spec.constants();
    let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&label),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(kernel.entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            // Every kernel writes workgroup memory before it reads it; tests run with zeroing off.
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
    if let Some(error) = pop(scope) {
        return Err(Error::Kernel { kernel: label, message: error.to_string() });
    }
    Ok(Pipeline { label, raw, layout, workgroup })
}

/// The error that an error scope caught. A browser does not allow waiting for it here; there it reaches the page's
/// handler.
pub(super) fn pop(scope: wgpu::ErrorScopeGuard) -> Option<wgpu::Error> {
    #[cfg(not(target_arch = "wasm32"))]
    {
        pollster::block_on(scope.pop())
    }
    #[cfg(target_arch = "wasm32")]
    {
        drop(scope);
        None
    }
}
