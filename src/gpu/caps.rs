//! Capabilities of a device. Plans choose their variant by them.

use crate::error::Error;
use crate::tensor::DType;

/// Capabilities of a device. Plans choose their variant by them.
#[derive(Debug, Clone, PartialEq)]
pub struct Caps {
    /// Limits of the device (not of the adapter).
    pub limits: wgpu::Limits,
    /// Whether f16 storage is possible.
    pub f16: bool,
    /// Smallest and largest subgroup, where subgroup operations are on.
    pub subgroups: Option<(u32, u32)>,
    /// Matrix units that multiply f16 and add up in f32, where their features are on.
    pub matrix: Option<Matrix>,
    /// Whether passes can be timed on the GPU.
    pub timestamps: bool,
    /// Whether the CPU does the work (lavapipe, SwiftShader, WARP).
    pub software: bool,
    /// Number of workgroups that fill the device: an estimate by the kind of device, because wgpu does not report the
    /// number of cores.
    pub full_groups: u64,
    /// Largest number of floating-point operations in one dispatch, chosen to stay well below a desktop's watchdog. A
    /// dispatch that fills the device only once may exceed it: splitting it would leave cores idle.
    pub dispatch_flops: f64,
    /// Largest workspace for features that a dispatch of their own stores. A longer run is processed in blocks.
    pub feature_bytes: u64,
    /// 32-bit registers that an invocation can use without spilling: an estimate by vendor. A device that was made with no
    /// more than WebGPU's defaults counts as one with few.
    pub registers: u32,
    /// The algorithm of recurrences along a sequence.
    pub recurrence: Algorithm,
    /// Whether shaders keep all of wgpu's checks (tests, `check`).
    pub shader_checks: bool,
}

/// Algorithms of a recurrence along a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// The one that should be faster at a shape.
    #[default]
    Fastest,
    /// Token by token, everywhere. Only tests ask for it.
    Walk,
    /// By products of chunks of tokens, wherever there are such. Only tests ask for it.
    Chunks,
}

impl Caps {
    /// A portable device with f16, whose buffers and bindings are as large as anything: for tests of sizes.
    #[cfg(test)]
    pub(crate) fn roomy() -> Self {
        let portable = Self::portable();
        let limits = wgpu::Limits {
            max_buffer_size: u64::MAX,
            max_storage_buffer_binding_size: u64::MAX,
            ..portable.limits.clone()
        };
        Self { f16: true, limits, ..portable }
    }

    /// WebGPU's default limits and no extension. Every device has at least these.
    pub fn portable() -> Self {
        Self {
            limits: wgpu::Limits::default(),
            f16: false,
            subgroups: None,
            matrix: None,
            timestamps: false,
            software: false,
            full_groups: FULL_HARDWARE,
            dispatch_flops: DISPATCH_FLOPS_INTEGRATED,
            feature_bytes: FEATURE_BYTES,
            registers: REGISTERS,
            recurrence: Algorithm::Fastest,
            shader_checks: false,
        }
    }

    /// `matrices` are those that the adapter lists.
    pub(super) fn of(
        device: &wgpu::Device,
        info: &wgpu::AdapterInfo,
        matrices: &[wgpu::CooperativeMatrixProperties],
        shader_checks: bool,
    ) -> Self {
        let features = device.features();
        let software = is_software(info);
        let subgroups = features.contains(wgpu::Features::SUBGROUP);
        let memory = |limits: &wgpu::Limits| limits.max_compute_workgroup_storage_size;
        let more = subgroups || memory(&device.limits()) > memory(&wgpu::Limits::default());
        Self {
            limits: device.limits(),
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
            matrix: Matrix::of(features, info, matrices),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            software,
            full_groups: if software { FULL_SOFTWARE } else { FULL_HARDWARE },
            dispatch_flops: match info.device_type {
                _ if software => DISPATCH_FLOPS_SOFTWARE,
                wgpu::DeviceType::DiscreteGpu => DISPATCH_FLOPS_DISCRETE,
                _ => DISPATCH_FLOPS_INTEGRATED,
            },
            feature_bytes: FEATURE_BYTES,
            registers: if more && (software || MANY_REGISTERS.contains(&info.vendor)) { 2 } else { 1 } * REGISTERS,
            recurrence: Algorithm::Fastest,
            shader_checks,
        }
    }

    /// Name of the tier: portable, and the extensions that faster variants may use.
    pub fn tier(&self) -> &'static str {
        tier(self.f16, self.subgroups.is_some(), self.matrix)
    }

    /// Bytes of the largest buffer that can be created and bound as a whole.
    pub fn largest_binding(&self) -> u64 {
        self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size)
    }

    /// Refuses a storage type that the device lacks.
    ///
    /// # Errors
    /// [`Error::Feature`] for f16 on a device without it.
    pub fn require(&self, op: &'static str, dtype: DType) -> Result<(), Error> {
        if dtype == DType::F16 && !self.f16 {
            return Err(Error::Feature { op, what: "f16 storage", feature: "SHADER_F16" });
        }
        Ok(())
    }
}

/// Matrices that a subgroup multiplies: square ones of f16, with a sum of f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Rows and columns: 8 or 16.
    pub tile: u32,
    /// Invocations of the largest subgroup. Workgroups are multiples of it.
    pub lanes: u32,
    /// Whether kernels compute the products themselves instead, with the same data flow. Only tests ask for it.
    pub emulated: bool,
}

impl Matrix {
    /// Features of a device with matrix units.
    pub(super) const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::SUBGROUP);

    /// The largest matrices that the adapter lists, on a device or adapter with these features.
    pub(super) fn of(
        features: wgpu::Features,
        info: &wgpu::AdapterInfo,
        listed: &[wgpu::CooperativeMatrixProperties],
    ) -> Option<Self> {
        use wgpu::CooperativeScalarType::{F16, F32};
        let lists = |tile: &u32| {
            listed.iter().any(|one| {
                [one.m_size, one.n_size, one.k_size] == [*tile; 3] && one.ab_type == F16 && one.cr_type == F32
            })
        };
        let tile = [16, 8].into_iter().find(lists).filter(|_| features.contains(Self::FEATURES))?;
        Some(Self { tile, lanes: info.subgroup_max_size, emulated: false })
    }
}

/// Half of what a binding holds on every device. Of slay's default features it holds 200 thousand tokens over all heads, which
/// fill any device.
const FEATURE_BYTES: u64 = 64 << 20;
/// Apple and Intel have as many. A software adapter has few but keeps the rest in its cache.
const REGISTERS: u32 = 128;
/// AMD, NVIDIA, Qualcomm.
const MANY_REGISTERS: [u32; 3] = [0x1002, 0x10de, 0x5143];
/// Eight workgroups for each of 128 cores.
const FULL_HARDWARE: u64 = 1024;
/// A few for each core of a laptop's CPU.
const FULL_SOFTWARE: u64 = 8;
/// 0.4 s on a small integrated GPU (1 TFLOP/s, half used); desktops reset a GPU after 2 s.
const DISPATCH_FLOPS_INTEGRATED: f64 = 2e11;
/// 0.8 s on a small discrete GPU (5 TFLOP/s, half used).
const DISPATCH_FLOPS_DISCRETE: f64 = 2e12;
/// About 1 s on a software adapter. It has no watchdog; the limit keeps the progress bar moving.
const DISPATCH_FLOPS_SOFTWARE: f64 = 3e9;

/// Name of the tier with these capabilities.
pub(super) fn tier(f16: bool, subgroups: bool, matrix: Option<Matrix>) -> &'static str {
    match (f16, subgroups, matrix) {
        (_, _, Some(Matrix { tile: 16, .. })) => "portable+f16+subgroups+matrix16",
        (_, _, Some(_)) => "portable+f16+subgroups+matrix8",
        (true, true, None) => "portable+f16+subgroups",
        (true, false, None) => "portable+f16",
        (false, true, None) => "portable+subgroups",
        (false, false, None) => "portable",
    }
}

/// Whether the CPU does the work: decided by the device type, and by name for drivers that report another type.
pub(super) fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_ascii_lowercase();
    info.device_type == wgpu::DeviceType::Cpu
        || ["llvmpipe", "swiftshader", "softpipe", "microsoft basic render"].iter().any(|s| name.contains(s))
}
