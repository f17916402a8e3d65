//! Shader text: files, fragments, and the prelude that Rust writes before them. Pure: needs no device.
//!
//! A WGSL file contains no `enable` line and no macro. Specialisations differ in (1) the fragment files that are
//! joined, (2) `const` lines in the prelude, for values that size arrays, and (3) pipeline overrides, for values that
//! select code paths.

use std::fmt::Write as _;

use crate::tensor::DType;

/// An embedded WGSL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Path below `shaders/`.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl std::hash::Hash for Fragment {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.path.hash(state);
    }
}

/// How a kernel uses a storage binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
}

/// A storage buffer that a fragment declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Name of the variable.
    pub name: &'static str,
    /// Whether the kernel writes it.
    pub bind: Bind,
}

/// What Rust says of a uniform struct, to compare with the WGSL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uniform {
    /// Name and byte offset of each field.
    pub fields: &'static [(&'static str, usize)],
    /// Size of the struct in bytes.
    pub size: usize,
}

/// A kernel: one entry point, the files it is made of, and its signature.
///
/// Binding 0 of group 0 is always the uniform `params`. Binding 1 is the uniform `own` of a [`Variant`] that has one. The
/// storage buffers follow, in the order in which the files declare them (see [`bindings`]).
#[derive(Debug)]
pub struct Kernel {
    /// Pipeline label, timer row: `linear_output`.
    pub name: &'static str,
    /// Entry point. Operators that share a kernel share its entry point.
    pub entry: &'static str,
    /// Files, in order; the entry point's file last. Fragments of the [`Variant`] come before them.
    pub sources: &'static [Fragment],
    /// The kernel's uniform struct.
    pub params: Uniform,
    /// States why every index is within bounds, if buffers have the sizes that a plan requires, and why every loop
    /// ends. A kernel with this proof is compiled without the checks that wgpu would insert. `None`: always checked.
    pub bounds_proof: Option<&'static str>,
}

impl Kernel {
    /// A kernel whose entry point has its name.
    pub(crate) const fn new(
        name: &'static str,
        sources: &'static [Fragment],
        params: Uniform,
        bounds_proof: Option<&'static str>,
    ) -> Self {
        Self { name, entry: name, sources, params, bounds_proof }
    }
}

/// How a kernel is specialised. Also the key of the pipeline cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Storage type: `alias Elem`.
    pub elem: DType,
    /// Chosen fragments, placed before the kernel's own files.
    pub fragments: Vec<Fragment>,
    /// `const NAME: u32 = value;` lines of the prelude.
    pub consts: Vec<(&'static str, u32)>,
    /// Pipeline overrides.
    pub overrides: Vec<(&'static str, u32)>,
    /// The uniform struct `Own` of the operator, if a fragment declares one.
    pub own: Option<Uniform>,
}

impl Variant {
    /// A variant without chosen fragments, and without counters of loads and stores.
    pub(crate) fn new(elem: DType, consts: Vec<(&'static str, u32)>, overrides: Vec<(&'static str, u32)>) -> Self {
        Self { elem, fragments: vec![COUNT_OFF], consts, overrides, own: None }
    }

    /// Adds fragments to this variant.
    pub(crate) fn with(mut self, fragments: &[Fragment]) -> Self {
        self.fragments.extend(fragments);
        self
    }

    /// A readable, unique name: `linear_output.f16.feature_elu1.ROWS=16.CAUSAL=1`.
    pub fn label(&self, kernel: &Kernel) -> String {
        let mut label = format!("{}.{}", kernel.name, self.elem);
        for fragment in &self.fragments {
            let stem = fragment.path.rsplit('/').next().unwrap_or(fragment.path);
            let _ = write!(label, ".{}", stem.trim_end_matches(".wgsl"));
        }
        for (name, value) in self.consts.iter().chain(&self.overrides) {
            let _ = write!(label, ".{name}={value}");
        }
        label
    }

    /// The label as the name of a file: a long one is cut, and ends in a hash of the whole.
    pub fn file_stem(&self, kernel: &Kernel) -> String {
        const MOST: usize = 150;
        let label = self.label(kernel);
        match label.char_indices().nth(MOST) {
            Some((at, _)) => format!("{}.{:016x}", &label[..at], hash(label.bytes())),
            None => label,
        }
    }

    /// Overrides in the form wgpu and naga take.
    pub fn constants(&self) -> Vec<(&str, f64)> {
        self.overrides.iter().map(|&(name, value)| (name, f64::from(value))).collect()
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
pub(crate) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let next = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, next)
}

/// Start of the line that declares a buffer.
const DECLARATION: &str = "@group(0) @binding(";

/// The storage buffers that a kernel declares, in the order of its files. Their binding numbers count on from that of the
/// last uniform, and the prelude defines the number of `q` as `Q_BINDING`. The files are the only place that lists them: a
/// fragment brings its own buffers.
pub fn bindings(kernel: &Kernel, spec: &Variant) -> Vec<Binding> {
    let lines = spec.fragments.iter().chain(kernel.sources).flat_map(|source| source.text.lines());
    lines.filter_map(|line| declared(line.strip_prefix(DECLARATION)?)).collect()
}

/// The storage buffer that a line declares; `None` for a uniform.
fn declared(line: &'static str) -> Option<Binding> {
    let (access, rest) = line.split_once("var<storage, ")?.1.split_once("> ")?;
    let bind = if access == "read" { Bind::Read } else { Bind::Write };
    Some(Binding { name: rest.split_once(':')?.0, bind })
}

/// Number of the first storage binding.
pub(crate) fn first_binding(spec: &Variant) -> u32 {
    1 + u32::from(spec.own.is_some())
}

/// The final text of a kernel, and the files its lines come from.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// Complete WGSL.
    pub text: String,
    /// First line (from 1) of every file within `text`.
    pub files: Vec<(usize, &'static str)>,
}

impl Assembled {
    /// `linear/output.wgsl:12` for a line of the whole text.
    pub fn locate(&self, line: usize) -> String {
        match self.files.iter().rev().find(|(first, _)| *first <= line) {
            Some((first, path)) => format!("{path}:{}", line - first + 1),
            None => format!("prelude:{line}"),
        }
    }
}

/// The [`Fragment`] at a path below `shaders/`.
macro_rules! fragment {
    ($path:literal) => {
        $crate::gpu::shader::Fragment {
            path: $path,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path)),
        }
    };
}
pub(crate) use fragment;

/// A uniform struct that [`params!`] declared.
pub(crate) trait UniformData: bytemuck::NoUninit {
    /// Names, offsets and size of the fields.
    const UNIFORM: Uniform;
}

/// Declares the uniform struct of kernels, with the layout that WGSL gives it, and describes it in `UNIFORM`.
macro_rules! params {
    (
        $(#[$doc:meta])*
        $vis:vis struct $name:ident { $($(#[$field_doc:meta])* $field_vis:vis $field:ident: $type:ty),+ $(,)? }
    ) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name {
            $($(#[$field_doc])* $field_vis $field: $type),+
        }

        impl $crate::gpu::shader::UniformData for $name {
            const UNIFORM: $crate::gpu::shader::Uniform = $crate::gpu::shader::Uniform {
                fields: &[$((stringify!($field), std::mem::offset_of!($name, $field))),+],
                size: size_of::<$name>(),
            };
        }
    };
}
pub(crate) use params;

const ELEM_F32: Fragment = fragment!("lib/elem_f32.wgsl");
const ELEM_F16: Fragment = fragment!("lib/elem_f16.wgsl");
const GRID: Fragment = fragment!("lib/grid.wgsl");
/// Products of small matrices by matrix units.
pub(crate) const MATRIX_UNITS: Fragment = fragment!("lib/matrix_units.wgsl");
/// The device's own conversion of pairs of f16.
pub(crate) const HALVES_DEVICE: Fragment = fragment!("lib/halves_device.wgsl");
/// The counters of loads and stores, switched off. A test replaces this fragment to switch them on.
const COUNT_OFF: Fragment = fragment!("lib/count_off.wgsl");

/// Whether a kernel multiplies by a GPU's matrix units, which WGSL in browsers does not have.
pub fn uses_matrix_units(spec: &Variant) -> bool {
    spec.fragments.iter().any(|fragment| fragment.path == MATRIX_UNITS.path)
}

/// Whether a kernel calls the device's conversion of pairs of f16, which some devices have only together with f16.
pub(crate) fn unpacks_halves(spec: &Variant) -> bool {
    spec.elem == DType::F16 || spec.fragments.iter().any(|fragment| fragment.path == HALVES_DEVICE.path)
}

/// Joins prelude, fragments and files.
pub fn assemble(kernel: &Kernel, spec: &Variant) -> Assembled {
    let mut text = String::new();
    // naga and browsers both require it.
    if spec.elem == DType::F16 {
        text.push_str("enable f16;\n");
    }
    // naga alone knows these types.
    if uses_matrix_units(spec) {
        text.push_str("enable wgpu_cooperative_matrix;\n");
    }
    for (name, value) in &spec.consts {
        let _ = writeln!(text, "const {name}: u32 = {value}u;");
    }
    for (number, binding) in (first_binding(spec)..).zip(bindings(kernel, spec)) {
        let _ = writeln!(text, "const {}_BINDING: u32 = {number}u;", binding.name.to_uppercase());
    }
    let elem = if spec.elem == DType::F16 { ELEM_F16 } else { ELEM_F32 };
    let mut files = Vec::new();
    for source in [elem, GRID].iter().chain(&spec.fragments).chain(kernel.sources) {
        files.push((text.lines().count() + 1, source.path));
        text.push_str(source.text);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Assembled { text, files }
}

/// The complete text of a kernel, to read or to compile elsewhere: overrides have their values, and a comment at the
/// top lists the bindings.
pub fn print(kernel: &Kernel, spec: &Variant) -> String {
    let mut text = format!("// {}\n// Group 0: 0 params, uniform, {} bytes", spec.label(kernel), kernel.params.size);
    if let Some(own) = spec.own {
        let _ = write!(text, "; 1 own, uniform, {} bytes", own.size);
    }
    for (number, Binding { name, bind }) in (first_binding(spec)..).zip(bindings(kernel, spec)) {
        let access = if bind == Bind::Read { "read" } else { "read_write" };
        let _ = write!(text, "; {number} {name}, storage, {access}");
    }
    text.push_str(".\n");
    for line in assemble(kernel, spec).text.lines() {
        let settled = spec.overrides.iter().find_map(|(name, value)| {
            let declared = format!("override {name}: u32 = ");
            let rest = line.strip_prefix(&declared)?;
            Some(format!("{declared}{value}u{}", &rest[rest.find(';')?..]))
        });
        text.push_str(settled.as_deref().unwrap_or(line));
        text.push('\n');
    }
    text
}
