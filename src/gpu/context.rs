//! A device to run on: somebody's, wrapped, or one we open. Which adapters there are and why one is refused.

use std::sync::{Arc, OnceLock};
#[cfg(not(target_arch = "wasm32"))]
use std::sync::{Mutex, PoisonError, Weak};

use super::caps::{Caps, is_software, tier};
use super::kernel::KernelCache;
use crate::error::Error;

/// Which adapter is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// As numbered by [`candidates`].
    Index(usize),
    /// A part of its name, upper or lower case.
    Name(String),
}

/// What device to open.
#[derive(Debug, Clone)]
pub struct AdapterRequest {
    /// APIs to look at.
    pub backends: wgpu::Backends,
    /// One adapter; `None`: the best.
    pub select: Option<Select>,
    /// Whether a software adapter may be taken without being selected.
    pub software: bool,
    /// Whether shaders keep all of wgpu's checks.
    pub shader_checks: bool,
}

impl Default for AdapterRequest {
    fn default() -> Self {
        Self { backends: wgpu::Backends::all(), select: None, software: false, shader_checks: false }
    }
}

/// An adapter of this machine.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Number for [`Select::Index`], counted over all backends.
    pub index: usize,
    /// Name, driver, backend.
    pub info: wgpu::AdapterInfo,
    /// Its limits.
    pub limits: wgpu::Limits,
    /// Whether it has f16.
    pub f16: bool,
    /// Subgroup sizes.
    pub subgroups: Option<(u32, u32)>,
    /// Whether it can time passes.
    pub timestamps: bool,
    /// Whether the CPU does the work.
    pub software: bool,
    /// As [`Caps::tier`].
    pub tier: &'static str,
    /// Why the request does not take it; `None` if it would do.
    pub refused: Option<String>,
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
}

/// Every adapter of this machine, in the order wgpu lists them, with the reason if the request refuses it.
///
/// Adapters are numbered over all backends, whatever the request's, so that a number means the same in every call.
pub async fn candidates_async(request: &AdapterRequest) -> Vec<Candidate> {
    // WGPU_BACKEND is read by whoever makes the request: here it would change the numbers of the adapters.
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        flags: descriptor.flags.with_env(),
        backend_options: descriptor.backend_options.clone().with_env(),
        ..descriptor
    });
    let adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    adapters.into_iter().enumerate().map(|(index, adapter)| candidate(index, adapter, request)).collect()
}

fn candidate(index: usize, adapter: wgpu::Adapter, request: &AdapterRequest) -> Candidate {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let features = adapter.features();
    let software = is_software(&info);
    let f16 = features.contains(wgpu::Features::SHADER_F16);
    let subgroups =
        features.contains(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size));
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
            Some(Select::Name(name)) if !info.name.to_lowercase().contains(&name.to_lowercase()) => {
                Some(format!("its name does not contain `{name}`"))
            }
            None if software && !request.software => {
                Some("it is a software adapter, slower than the cpu backend; name it to use it".to_owned())
            }
            _ => None,
        }
    };
    let timestamps = features.contains(wgpu::Features::TIMESTAMP_QUERY);
    Candidate {
        index,
        info,
        limits,
        f16,
        subgroups,
        timestamps,
        software,
        tier: tier(f16, subgroups.is_some()),
        refused,
        adapter,
    }
}

/// The first limit that lies below WebGPU's defaults, which every kernel counts on.
fn below_portable(limits: &wgpu::Limits) -> Option<String> {
    let base = wgpu::Limits::default();
    let pairs = [
        ("storage buffers", limits.max_storage_buffers_per_shader_stage, base.max_storage_buffers_per_shader_stage),
        ("workgroup memory", limits.max_compute_workgroup_storage_size, base.max_compute_workgroup_storage_size),
        ("invocations", limits.max_compute_invocations_per_workgroup, base.max_compute_invocations_per_workgroup),
        (
            "workgroups a dimension",
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
    /// Tells this device from all others.
    #[cfg(not(target_arch = "wasm32"))]
    place: Option<usize>,
    kernels: Arc<KernelCache>,
    trouble: Trouble,
}

/// The first thing that went wrong with a device of our own outside of any error scope: lost, above all.
type Trouble = Arc<OnceLock<String>>;

/// Contexts in use, so that another one on the same device finds the pipelines made there. Weak: nothing is kept alive
/// by it. wgpu has no place on a device where a library could leave them. In browsers, where wgpu's types stay on their
/// thread, contexts made apart do not share.
#[cfg(not(target_arch = "wasm32"))]
static CONTEXTS: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// A device with its queue, what it can do, and the pipelines made on it. Lives as long as the process or the
/// application's device; clones share everything, and contexts made apart on one device share the pipelines.
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

impl Context {
    /// Wraps a device and queue of the caller, who keeps them: nothing is submitted, polled or installed by this.
    ///
    /// Faster tiers are open where the device was made with their features (`SHADER_F16`, `SUBGROUP`,
    /// `TIMESTAMP_QUERY`) and limits.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self::wrap(device, queue, false, Trouble::default())
    }

    /// As [`Context::from_device`], with all of wgpu's checks inside shaders, as the tests run.
    pub fn from_device_checked(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self::wrap(device, queue, true, Trouble::default())
    }

    fn wrap(device: wgpu::Device, queue: wgpu::Queue, shader_checks: bool, trouble: Trouble) -> Self {
        let info = device.adapter_info();
        let caps = Caps::of(&device, &info, shader_checks);
        #[cfg(target_arch = "wasm32")]
        let inner = Arc::new(Inner { device, queue, info, caps, kernels: Arc::default(), trouble });
        #[cfg(not(target_arch = "wasm32"))]
        let inner = {
            let place = place(&device, info.backend);
            // Declared before the lock and so dropped after it: the last hold on a context may be in here.
            let others: Vec<Arc<Inner>>;
            let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
            contexts.retain(|context| context.strong_count() > 0);
            others = contexts.iter().filter_map(Weak::upgrade).collect();
            let same = |other: &&Arc<Inner>| place.is_some() && other.place == place && other.device == device;
            let kernels = others.iter().find(same).map_or_else(Arc::default, |other| other.kernels.clone());
            let inner = Arc::new(Inner { device, queue, info, caps, place, kernels, trouble });
            contexts.push(Arc::downgrade(&inner));
            inner
        };
        Self(inner)
    }

    /// Opens a device of its own: the adapter asked for or, if none is, the best kind there is, with all its limits
    /// and the features faster tiers use.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with the reason for each that was refused, [`Error::Device`] if it does not open.
    pub async fn open_async(request: &AdapterRequest) -> Result<Self, Error> {
        best(candidates_async(request).await)?.open(request.shader_checks).await
    }

    /// [`Context::open_async`], waited for.
    ///
    /// # Errors
    /// As [`Context::open_async`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(request: &AdapterRequest) -> Result<Self, Error> {
        pollster::block_on(Self::open_async(request))
    }

    /// Whether a device that was opened here is lost or has failed: the error that tells how. Of a caller's device
    /// nothing is known, since its handlers are the caller's.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn check_lost(&self) -> Result<(), Error> {
        self.0.trouble.get().map_or(Ok(()), |what| Err(Error::Device(what.clone())))
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
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

/// The best kind of those that were not refused.
///
/// # Errors
/// [`Error::NoAdapter`] with the reason for each that was refused.
pub fn best(mut candidates: Vec<Candidate>) -> Result<Candidate, Error> {
    let usable = candidates.iter().enumerate().filter(|(_, c)| c.refused.is_none());
    if let Some((at, _)) = usable.min_by_key(|(_, c)| rank(c)) {
        return Ok(candidates.swap_remove(at));
    }
    let reasons: Vec<_> =
        candidates.iter().map(|c| format!("{}: {}", c.title(), c.refused.as_deref().unwrap_or("usable"))).collect();
    Err(Error::NoAdapter(if reasons.is_empty() {
        "this machine shows none to Vulkan, Metal, DX12 or GL".into()
    } else {
        format!("none of the {} found will do ({})", reasons.len(), reasons.join("; "))
    }))
}

/// Where wgpu keeps the driver's device: the same for all handles of a device. `wgpu::Device` compares equal by a number
/// alone, which devices of two instances share. `None` for a backend that is not known here.
#[cfg(not(target_arch = "wasm32"))]
fn place(device: &wgpu::Device, backend: wgpu::Backend) -> Option<usize> {
    use wgpu::hal::api;
    // SAFETY: nothing is done with the driver's device but taking its address.
    unsafe {
        match backend {
            #[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
            wgpu::Backend::Vulkan => device.as_hal::<api::Vulkan>().map(|d| &raw const *d as usize),
            #[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
            wgpu::Backend::Gl => device.as_hal::<api::Gles>().map(|d| &raw const *d as usize),
            #[cfg(target_vendor = "apple")]
            wgpu::Backend::Metal => device.as_hal::<api::Metal>().map(|d| &raw const *d as usize),
            #[cfg(windows)]
            wgpu::Backend::Dx12 => device.as_hal::<api::Dx12>().map(|d| &raw const *d as usize),
            _ => None,
        }
    }
}

impl Candidate {
    /// Opens a device on this adapter with all its limits and the features faster tiers use.
    ///
    /// # Errors
    /// [`Error::Device`] if it does not open.
    pub async fn open(&self, shader_checks: bool) -> Result<Context, Error> {
        self.open_with(shader_checks, |_| {}).await
    }

    /// As [`Candidate::open`], with some limits changed: what lies beyond those of the adapter does not open.
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
        let wanted = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("subquad"),
            required_features: self.adapter.features() & wanted,
            required_limits: limits,
            ..Default::default()
        };
        let (device, queue) = self
            .adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::Device(format!("{} does not open: {e}", self.title())))?;
        // Nobody else has this device: without handlers wgpu would end the process when it is lost.
        let trouble = Trouble::default();
        let (lost, failed) = (trouble.clone(), trouble.clone());
        device.set_device_lost_callback(move |reason, message| {
            let _ = lost.set(format!("lost ({reason:?}): {message}"));
        });
        device.on_uncaptured_error(Arc::new(move |error| {
            let _ = failed.set(error.to_string());
        }));
        Ok(Context::wrap(device, queue, shader_checks, trouble))
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
