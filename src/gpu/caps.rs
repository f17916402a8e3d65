//! What a device can do: what plans choose their variant by.

use crate::error::Error;
use crate::tensor::DType;

/// What the device can do: what plans choose their variant by.
#[derive(Debug, Clone, PartialEq)]
pub struct Caps {
    /// Limits of the device (not of the adapter).
    pub limits: wgpu::Limits,
    /// Whether f16 storage is possible.
    pub f16: bool,
    /// Smallest and largest subgroup, where subgroup operations are on.
    pub subgroups: Option<(u32, u32)>,
    /// Whether passes can be timed on the GPU.
    pub timestamps: bool,
    /// Whether the CPU does the work (lavapipe, SwiftShader, WARP).
    pub software: bool,
    /// Workgroups from which on the device counts as full: an estimate by kind of device, since wgpu does not tell the
    /// number of cores.
    pub full_groups: u64,
    /// Floating-point operations in one dispatch that stay well below a desktop's watchdog. A dispatch that fills the
    /// machine once may take more: cutting it would only leave cores idle.
    pub dispatch_flops: f64,
    /// Whether shaders keep all of wgpu's checks (tests, `check`).
    pub shader_checks: bool,
}

impl Caps {
    /// WebGPU's default limits and nothing else: what every device has.
    pub fn portable() -> Self {
        Self {
            limits: wgpu::Limits::default(),
            f16: false,
            subgroups: None,
            timestamps: false,
            software: false,
            full_groups: FULL_HARDWARE,
            dispatch_flops: DISPATCH_FLOPS_INTEGRATED,
            shader_checks: false,
        }
    }

    pub(super) fn of(device: &wgpu::Device, info: &wgpu::AdapterInfo, shader_checks: bool) -> Self {
        let features = device.features();
        let software = is_software(info);
        let subgroups = features.contains(wgpu::Features::SUBGROUP);
        Self {
            limits: device.limits(),
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            software,
            full_groups: if software { FULL_SOFTWARE } else { FULL_HARDWARE },
            dispatch_flops: match info.device_type {
                _ if software => DISPATCH_FLOPS_SOFTWARE,
                wgpu::DeviceType::DiscreteGpu => DISPATCH_FLOPS_DISCRETE,
                _ => DISPATCH_FLOPS_INTEGRATED,
            },
            shader_checks,
        }
    }

    /// Name of the tier: which group of faster variants is open.
    pub fn tier(&self) -> &'static str {
        tier(self.f16, self.subgroups.is_some())
    }

    /// Bytes of the largest buffer that can be made and bound whole.
    pub fn largest_binding(&self) -> u64 {
        self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size)
    }

    /// Refuses a storage type that the device lacks.
    ///
    /// # Errors
    /// [`Error::Limit`] for f16 on a device without it.
    pub fn require(&self, op: &'static str, dtype: DType) -> Result<(), Error> {
        if dtype == DType::F16 && !self.f16 {
            let what = "f16 storage (device feature SHADER_F16)".into();
            return Err(Error::Limit { op: op.into(), what, needed: 1, limit: 0 });
        }
        Ok(())
    }
}

/// Eight workgroups for each of 128 cores.
const FULL_HARDWARE: u64 = 1024;
/// A few for each core of a laptop's CPU.
const FULL_SOFTWARE: u64 = 8;
/// 0.4 s on a small integrated GPU (1 TFLOP/s, half used); desktops reset a GPU after 2 s.
const DISPATCH_FLOPS_INTEGRATED: f64 = 2e11;
/// 0.8 s on a small discrete GPU (5 TFLOP/s, half used).
const DISPATCH_FLOPS_DISCRETE: f64 = 2e12;
/// About 1 s on a software adapter, which has no watchdog; bounds how long progress stands still.
const DISPATCH_FLOPS_SOFTWARE: f64 = 1e9;

/// Name of the tier with these capabilities.
pub(super) fn tier(f16: bool, subgroups: bool) -> &'static str {
    match (f16, subgroups) {
        (true, true) => "portable+f16+subgroups",
        (true, false) => "portable+f16",
        (false, true) => "portable+subgroups",
        (false, false) => "portable",
    }
}

/// Whether the CPU does the work: by kind, and by name for drivers that claim another.
pub(super) fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_ascii_lowercase();
    info.device_type == wgpu::DeviceType::Cpu
        || ["llvmpipe", "swiftshader", "softpipe", "microsoft basic render"].iter().any(|s| name.contains(s))
}
