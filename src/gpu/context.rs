//! A device to run on: the caller's, wrapped, or one opened here. The adapters of this machine, and why one is refused.

use std::sync::{Arc, OnceLock};

use super::caps::{Caps, Matrix, is_software, tier};
use super::pipeline::KernelCache;
use crate::error::Error;
use crate::tensor::Origin;

/// The adapter to select.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Select {
    /// Its index in the list of [`candidates`].
    Index(usize),
    /// A part of its name, upper or lower case.
    Name(String),
}

/// The device to open.
#[derive(Debug, Clone)]
pub struct AdapterRequest {
    /// APIs to use. [`AdapterRequest::default`] leaves out GL, which is opened only when it is named here.
    pub backends: wgpu::Backends,
    /// One adapter; `None`: the best.
    pub select: Option<Select>,
    /// Whether a software adapter may be used without being selected.
    pub software: bool,
    /// Whether shaders keep all of wgpu's checks.
    pub shader_checks: bool,
    /// Whether the device has no more than every WebGPU device has, but for f16, timestamps and the sizes of buffers: no
    /// subgroups, no matrix units, 16 KiB of workgroup memory.
    pub portable: bool,
    /// Whether an adapter may be used although [`Context::self_test`] found that it computes wrong results.
    pub force: bool,
}

impl Default for AdapterRequest {
    fn default() -> Self {
        let backends = wgpu::Backends::all().difference(wgpu::Backends::GL);
        Self { backends, select: None, software: false, shader_checks: false, portable: false, force: false }
    }
}

impl AdapterRequest {
    /// Whether GL has to be opened to answer this request, given the adapters of the other backends. Opening it loads
    /// the window system's libraries, and these print errors of their own where there is no display.
    fn needs_gl(&self, others: &[wgpu::AdapterInfo]) -> bool {
        self.backends.contains(wgpu::Backends::GL)
            && match &self.select {
                // GL adapters have the numbers after all others.
                Some(Select::Index(index)) => *index >= others.len(),
                Some(Select::Name(name)) => {
                    !others.iter().any(|info| self.backends.contains(info.backend.into()) && is_named(info, name))
                }
                None => true,
            }
    }
}

/// Whether a part of the adapter's name is `name`, upper or lower case.
fn is_named(info: &wgpu::AdapterInfo, name: &str) -> bool {
    info.name.to_lowercase().contains(&name.to_lowercase())
}

/// An adapter of this machine.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Index for [`Select::Index`], counted over all backends.
    pub index: usize,
    /// Name, driver, backend.
    pub info: wgpu::AdapterInfo,
    /// Its limits.
    pub limits: wgpu::Limits,
    /// Whether it has f16.
    pub f16: bool,
    /// Subgroup sizes.
    pub subgroups: Option<(u32, u32)>,
    /// Its matrix units.
    pub matrix: Option<Matrix>,
    /// Whether it can time passes.
    pub timestamps: bool,
    /// Whether it runs on the CPU.
    pub software: bool,
    /// See [`Caps::tier`].
    pub tier: &'static str,
    /// Why the request refuses it; `None` if it can be used.
    pub refused: Option<String>,
    /// What it computes wrong, if [`Candidate::open_tested`] found something.
    pub fault: Option<String>,
    /// All matrices that it lists.
    matrices: Vec<wgpu::CooperativeMatrixProperties>,
    adapter: wgpu::Adapter,
}

impl Candidate {
    /// Name and version of the driver, as it gives them.
    pub fn driver(&self) -> String {
        [self.info.driver.as_str(), self.info.driver_info.as_str()].join(" ").trim().to_owned()
    }

    /// `0: NVIDIA H200 (vulkan)`.
    pub fn title(&self) -> String {
        format!("{}: {} ({})", self.index, self.info.name, self.info.backend)
    }

    /// `0 llvmpipe (vulkan)`: software drivers add the version of their compiler to the name, which this leaves out.
    pub fn short_title(&self) -> String {
        let name = self.info.name.split(" (").next().unwrap_or(&self.info.name);
        format!("{} {name} ({})", self.index, self.info.backend)
    }

    /// Why an adapter that computes wrong results is refused: `adapter 0 llvmpipe (vulkan): refused: its driver ..`.
    pub(crate) fn wrong(&self) -> Option<String> {
        self.fault.as_ref().map(|fault| format!("adapter {}: refused: {fault}", self.short_title()))
    }
}

/// Every adapter of this machine, in the order wgpu lists them, with the reason if the request refuses it. GL adapters
/// come last, and only if the request asks for GL.
///
/// Adapters are numbered over all backends, whatever the request's, so that a number means the same in every call.
pub async fn candidates_async(request: &AdapterRequest) -> Vec<Candidate> {
    let gl = wgpu::Backends::GL;
    let mut adapters = adapters(wgpu::Backends::all().difference(gl)).await;
    let others: Vec<_> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    if request.needs_gl(&others) {
        adapters.extend(self::adapters(gl).await);
    }
    adapters.into_iter().enumerate().map(|(index, adapter)| candidate(index, adapter, request)).collect()
}

/// The adapters of these backends.
async fn adapters(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    // Callers read WGPU_BACKEND into the request. Here it would change the numbers of the adapters.
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        flags: descriptor.flags.with_env(),
        backend_options: descriptor.backend_options.clone().with_env(),
        ..descriptor
    });
    instance.enumerate_adapters(backends).await
}

fn candidate(index: usize, adapter: wgpu::Adapter, request: &AdapterRequest) -> Candidate {
    let info = adapter.get_info();
    let mut limits = adapter.limits();
    let mut features = adapter.features();
    let software = is_software(&info);
    let f16 = features.contains(wgpu::Features::SHADER_F16);
    let compute = adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS);
    let refused = if !compute {
        Some("it has no compute shaders".to_owned())
    } else if let Some(lack) = below_portable(&limits) {
        Some(lack)
    } else if !request.backends.contains(info.backend.into()) {
        Some(format!("its backend, {}, was not asked for", info.backend))
    } else {
        match &request.select {
            Some(Select::Index(wanted)) if *wanted != index => Some(format!("adapter {wanted} was asked for")),
            Some(Select::Name(name)) if !is_named(&info, name) => Some(format!("its name does not contain `{name}`")),
            None if software && !request.software => Some(SLOW.to_owned()),
            _ => None,
        }
    };
    if request.portable {
        features &= !(wgpu::Features::SUBGROUP | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        limits = only_portable(limits);
    }
    let subgroups =
        features.contains(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size));
    let matrices = adapter.cooperative_matrix_properties();
    let matrix = Matrix::of(features, &info, &matrices);
    let timestamps = features.contains(wgpu::Features::TIMESTAMP_QUERY);
    Candidate {
        index,
        info,
        limits,
        f16,
        subgroups,
        matrix,
        timestamps,
        software,
        tier: tier(f16, subgroups.is_some(), matrix),
        refused,
        fault: None,
        matrices,
        adapter,
    }
}

/// Why a request without software adapters refuses one.
pub(crate) const SLOW: &str = "it is a software adapter, slower than the cpu backend; name it to use it";

/// Limits of kernels as WebGPU's defaults have them, of buffers and bindings as they are.
fn only_portable(limits: wgpu::Limits) -> wgpu::Limits {
    let base = wgpu::Limits::default();
    wgpu::Limits {
        max_storage_buffers_per_shader_stage: base.max_storage_buffers_per_shader_stage,
        max_compute_workgroup_storage_size: base.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: base.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: base.max_compute_workgroup_size_x,
        max_compute_workgroup_size_y: base.max_compute_workgroup_size_y,
        max_compute_workgroup_size_z: base.max_compute_workgroup_size_z,
        ..limits
    }
}

/// The first limit below WebGPU's defaults, which every kernel relies on.
fn below_portable(limits: &wgpu::Limits) -> Option<String> {
    let base = wgpu::Limits::default();
    let pairs = [
        ("storage buffers", limits.max_storage_buffers_per_shader_stage, base.max_storage_buffers_per_shader_stage),
        ("workgroup memory", limits.max_compute_workgroup_storage_size, base.max_compute_workgroup_storage_size),
        ("invocations", limits.max_compute_invocations_per_workgroup, base.max_compute_invocations_per_workgroup),
        (
            "workgroups per dimension",
            limits.max_compute_workgroups_per_dimension,
            base.max_compute_workgroups_per_dimension,
        ),
    ];
    let (what, has, needs) = pairs.into_iter().find(|(_, has, needs)| has < needs)?;
    Some(format!("it allows {has} {what}, {needs} are needed"))
}

/// [`candidates_async`], waited for.
#[cfg(not(target_arch = "wasm32"))]
pub fn candidates(request: &AdapterRequest) -> Vec<Candidate> {
    pollster::block_on(candidates_async(request))
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    caps: Caps,
    kernels: KernelCache,
    trouble: Trouble,
    origin: Origin,
}

/// The first thing that went wrong with a device of our own outside of any error scope: lost, above all.
type Trouble = Arc<OnceLock<String>>;

/// A device with its queue, what it can do, and the pipelines made on it. Make one for each device and clone it: clones share
/// everything. A second context on the same device makes every pipeline again, and what one makes does not bind on the other.
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

impl Context {
    /// Wraps a device and queue of the caller, who keeps them: nothing is submitted, polled or installed by this.
    ///
    /// Faster tiers are open where the device was made with their features (`SHADER_F16`, `SUBGROUP`,
    /// `TIMESTAMP_QUERY`) and limits. Matrix units need [`Context::from_device_of`].
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self::wrap(device, queue, &[], false, Trouble::default())
    }

    /// Like [`Context::from_device`], with the adapter that the device was made of: only an adapter says which matrices its
    /// units multiply. They are used if the device was made with `EXPERIMENTAL_COOPERATIVE_MATRIX`, `SHADER_F16` and
    /// `SUBGROUP`, and with more workgroup memory than WebGPU's default (32 KiB is enough).
    pub fn from_device_of(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self::wrap(device, queue, &adapter.cooperative_matrix_properties(), false, Trouble::default())
    }

    /// Like [`Context::from_device`], with all of wgpu's checks inside shaders. The tests use it.
    pub fn from_device_checked(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self::wrap(device, queue, &[], true, Trouble::default())
    }

    fn wrap(
        device: wgpu::Device,
        queue: wgpu::Queue,
        matrices: &[wgpu::CooperativeMatrixProperties],
        shader_checks: bool,
        trouble: Trouble,
    ) -> Self {
        let info = device.adapter_info();
        let caps = Caps::of(&device, &info, matrices, shader_checks);
        Self(Arc::new(Inner {
            device,
            queue,
            info,
            caps,
            kernels: KernelCache::default(),
            trouble,
            origin: Origin::default(),
        }))
    }

    /// Opens a device of its own: the adapter asked for or, if none is, the best kind there is, with all its limits
    /// and the features faster tiers use. See [`open_best`].
    ///
    /// # Errors
    /// The errors of [`open_best`].
    pub async fn open_async(request: &AdapterRequest) -> Result<Self, Error> {
        open_best(&mut candidates_async(request).await, request).await.map(|(_, context)| context)
    }

    /// [`Context::open_async`], waited for.
    ///
    /// # Errors
    /// The errors of [`Context::open_async`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(request: &AdapterRequest) -> Result<Self, Error> {
        pollster::block_on(Self::open_async(request))
    }

    /// Runs a short program and waits for it. The result is what the device computes wrong, in a clause to show a user;
    /// `None` if nothing was found. [`Context::open`] does this on software adapters, since drivers of these exist that end
    /// long loops early and report nothing. It takes milliseconds.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost or refuses, [`Error::Kernel`] if it does not compile the program.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn self_test(&self) -> Result<Option<String>, Error> {
        super::self_test::run(self)
    }

    /// Fails if a device that was opened here is lost or has failed. A caller's device always passes, since its error
    /// handlers belong to the caller.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn check_lost(&self) -> Result<(), Error> {
        self.0.trouble.get().map_or(Ok(()), |what| Err(Error::device(what)))
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// Tells what was made through this context and its clones.
    pub(crate) fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// The queue. Used by [`readback`](super::readback) alone.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// Name, driver and backend of the adapter.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.0.info
    }

    /// What the device can do.
    pub fn caps(&self) -> &Caps {
        &self.0.caps
    }

    /// Pipelines made so far.
    pub fn kernels(&self) -> &KernelCache {
        &self.0.kernels
    }
}

/// The best of the candidates that the request does not refuse.
///
/// # Errors
/// [`Error::NoAdapter`] with what was asked for and what there is.
pub fn best(mut candidates: Vec<Candidate>, request: &AdapterRequest) -> Result<Candidate, Error> {
    best_of(&candidates, request).map(|at| candidates.swap_remove(at))
}

/// The place of [`best`] in the list.
fn best_of(candidates: &[Candidate], request: &AdapterRequest) -> Result<usize, Error> {
    let usable = candidates.iter().enumerate().filter(|(_, c)| c.refused.is_none());
    match usable.min_by_key(|(_, c)| rank(c)) {
        Some((at, _)) => Ok(at),
        None => Err(none_found(candidates, request)),
    }
}

/// Opens the best of the candidates that the request does not refuse; the result has its place in the list. A software
/// adapter is tested ([`Candidate::open_tested`]). One that computes wrong results is refused from then on and the next best
/// is taken, unless the request forces it.
///
/// # Errors
/// [`Error::NoAdapter`] with what was asked for and what there is, or with what the adapter computes wrong;
/// [`Error::Device`] if it does not open.
pub async fn open_best(candidates: &mut [Candidate], request: &AdapterRequest) -> Result<(usize, Context), Error> {
    loop {
        let at = best_of(candidates, request)?;
        let candidate = &mut candidates[at];
        let context = candidate.open_tested(request.shader_checks).await?;
        if candidate.fault.is_none() || request.force {
            return Ok((at, context));
        }
        candidate.refused.clone_from(&candidate.fault);
    }
}

/// Why none of the candidates can be used: [`Error::NoAdapter`].
pub(crate) fn none_found(candidates: &[Candidate], request: &AdapterRequest) -> Error {
    let wrong = candidates.iter().find_map(Candidate::wrong);
    Error::NoAdapter(wrong.unwrap_or_else(|| none_of_the_kind(candidates, request)))
}

/// Why none of the candidates is what the request asks for, in one sentence.
fn none_of_the_kind(candidates: &[Candidate], request: &AdapterRequest) -> String {
    let index = |wanted: usize| candidates.iter().find(|c| c.index == wanted);
    if let Some(Select::Index(wanted)) = request.select
        && let Some(candidate) = index(wanted)
    {
        let reason = candidate.refused.as_deref().unwrap_or("it is not among those looked at");
        return format!("adapter {} cannot be used: {reason}", candidate.title());
    }
    let kind = if request.backends.is_all() || request.backends == AdapterRequest::default().backends {
        if request.select.is_none() && !request.software { "hardware " } else { "" }.to_owned()
    } else {
        format!("{} ", backend_names(request.backends))
    };
    let which = match &request.select {
        Some(Select::Index(index)) => format!("with index {index} "),
        Some(Select::Name(name)) => format!("with `{name}` in its name "),
        None => String::new(),
    };
    let titles: Vec<_> = candidates.iter().map(Candidate::short_title).collect();
    let available = if titles.is_empty() { "none".into() } else { titles.join(", ") };
    format!("no {kind}adapter {which}found (available: {available})")
}

/// Names of backends as their makers write them: `Vulkan or Metal`.
fn backend_names(backends: wgpu::Backends) -> String {
    let names = [
        (wgpu::Backends::VULKAN, "Vulkan"),
        (wgpu::Backends::METAL, "Metal"),
        (wgpu::Backends::DX12, "DX12"),
        (wgpu::Backends::GL, "GL"),
    ];
    let names: Vec<_> = names.iter().filter(|(one, _)| backends.contains(*one)).map(|(_, name)| *name).collect();
    names.join(" or ")
}

impl Candidate {
    /// Opens a device on this adapter with all its limits and the features faster tiers use.
    ///
    /// # Errors
    /// [`Error::Device`] if it does not open.
    pub async fn open(&self, shader_checks: bool) -> Result<Context, Error> {
        self.open_with(shader_checks, |_| {}).await
    }

    /// Like [`Candidate::open`]. A software adapter then runs [`Context::self_test`]; what it computes wrong is its `fault`.
    ///
    /// # Errors
    /// [`Error::Device`] if it does not open, and the errors of [`Context::self_test`].
    pub async fn open_tested(&mut self, shader_checks: bool) -> Result<Context, Error> {
        let context = self.open(shader_checks).await?;
        #[cfg(not(target_arch = "wasm32"))]
        if self.software {
            self.fault = context.self_test()?;
        }
        Ok(context)
    }

    /// Like [`Candidate::open`], with some limits changed. Limits beyond those of the adapter make it fail.
    ///
    /// # Errors
    /// [`Error::Device`] if it does not open.
    pub async fn open_with(
        &self,
        shader_checks: bool,
        change: impl FnOnce(&mut wgpu::Limits),
    ) -> Result<Context, Error> {
        let mut limits = self.limits.clone();
        change(&mut limits);
        let mut wanted = wgpu::Features::SHADER_F16 | wgpu::Features::TIMESTAMP_QUERY;
        wanted.set(wgpu::Features::SUBGROUP, self.subgroups.is_some());
        if self.matrix.is_some() {
            wanted |= Matrix::FEATURES;
        }
        // SAFETY: matrix units are used by one kernel, in the shapes that the adapter lists, with every address within
        // workgroup memory; its results are compared with the definition on each adapter that `check` runs on.
        let experimental_features = match self.matrix {
            Some(_) => unsafe { wgpu::ExperimentalFeatures::enabled() },
            None => wgpu::ExperimentalFeatures::disabled(),
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("subquad"),
            required_features: self.adapter.features() & wanted,
            required_limits: limits,
            experimental_features,
            ..Default::default()
        };
        let (device, queue) = self
            .adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::device(format!("{} does not open: {e}", self.title())))?;
        // Without handlers wgpu would end the process when the device is lost.
        let trouble = Trouble::default();
        let (lost, failed) = (trouble.clone(), trouble.clone());
        device.set_device_lost_callback(move |reason, message| {
            let _ = lost.set(format!("lost ({reason:?}): {message}"));
        });
        device.on_uncaptured_error(Arc::new(move |error| {
            let _ = failed.set(error.to_string());
        }));
        Ok(Context::wrap(device, queue, &self.matrices, shader_checks, trouble))
    }
}

/// Discrete before integrated before virtual before unknown before software; GL last, since it lacks most tiers.
fn rank(candidate: &Candidate) -> (u8, bool, usize) {
    let kind = match candidate.info.device_type {
        _ if candidate.software => 4,
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        _ => 3,
    };
    (kind, candidate.info.backend == wgpu::Backend::Gl, candidate.index)
}
