//! Shader text: files, fragments, and the prelude that Rust writes in front of them. Pure: no device.
//!
//! A WGSL file carries no `enable` line and no macro. What differs between specialisations is (1) which fragment files
//! are joined, (2) `const` lines in the prelude, for what sizes arrays, (3) pipeline overrides, for what shapes code.

use std::fmt::Write as _;

use crate::tensor::DType;

/// A WGSL file, embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Path below `shaders/`.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl std::hash::Hash for Source {
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

/// A field of a uniform struct: name, byte offset.
pub type Field = (&'static str, usize);

/// A kernel: one entry point, the files it is made of, and its signature.
///
/// Binding 0 of group 0 is always the uniform `params`; storage bindings follow in the order of `bindings`. The
/// declaration is compared with what naga finds in the WGSL whenever a pipeline is made.
#[derive(Debug)]
pub struct Kernel {
    /// Entry point, pipeline label, timer row: `linear_output`.
    pub name: &'static str,
    /// Files, in order; the entry point's file last. Fragments of the [`Spec`] come before them.
    pub sources: &'static [Source],
    /// Storage bindings 1, 2, ...: name and access.
    pub bindings: &'static [(&'static str, Bind)],
    /// Fields of `Params` as the Rust twin has them, for the test that compares both.
    pub params: &'static [Field],
    /// Bytes of `Params`.
    pub params_size: usize,
    /// Why every index into buffers and arrays is within bounds, given buffers of the sizes that a plan insists on, and
    /// why every loop ends; with it the kernel is compiled without the checks that wgpu would insert. `None`: always
    /// checked.
    pub bounds_proof: Option<&'static str>,
}

/// How a kernel is specialised. Also the key of the pipeline cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Storage type: `alias Elem`.
    pub elem: DType,
    /// Chosen fragments, joined in front of the kernel's own files.
    pub fragments: Vec<Source>,
    /// `const NAME: u32 = value;` lines of the prelude.
    pub consts: Vec<(&'static str, u32)>,
    /// Pipeline overrides.
    pub overrides: Vec<(&'static str, u32)>,
}

impl Spec {
    /// Readable and unique: `linear_output.f16.feature_elu1.ROWS=16.CAUSAL=1`.
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

    /// Overrides in the form wgpu and naga take.
    pub fn constants(&self) -> Vec<(&str, f64)> {
        self.overrides.iter().map(|&(name, value)| (name, f64::from(value))).collect()
    }
}

/// The final text of a kernel, with the files its lines came from.
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

/// The [`Source`] at a path below `shaders/`.
macro_rules! source {
    ($path:literal) => {
        $crate::gpu::Source { path: $path, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path)) }
    };
}
pub(crate) use source;

/// The [`Field`] table of a uniform struct: every field by name, in order.
macro_rules! fields {
    ($params:ty: $($field:ident),+ $(,)?) => {
        &[$((stringify!($field), std::mem::offset_of!($params, $field))),+]
    };
}
pub(crate) use fields;

const ELEM_F32: Source = source!("common/elem_f32.wgsl");
const ELEM_F16: Source = source!("common/elem_f16.wgsl");
const GRID: Source = source!("common/grid.wgsl");
/// Counting of loads and stores, switched off: what kernels run with; a test switches it on.
pub(crate) const COUNT_OFF: Source = source!("common/count_off.wgsl");

/// Joins prelude, fragments and files.
pub fn assemble(kernel: &Kernel, spec: &Spec) -> Assembled {
    let mut text = String::new();
    // The one directive that our kernels need; naga and browsers want it alike.
    if spec.elem == DType::F16 {
        text.push_str("enable f16;\n");
    }
    for (name, value) in &spec.consts {
        let _ = writeln!(text, "const {name}: u32 = {value}u;");
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

/// The final text of a kernel to read, keep or compile elsewhere: complete, with the pipeline's overrides settled in their
/// declarations, and what one must know to bind it in front.
pub fn print(kernel: &Kernel, spec: &Spec) -> String {
    let mut text = format!("// {}\n// Group 0: 0 params, uniform, {} bytes", spec.label(kernel), kernel.params_size);
    for (i, (name, bind)) in kernel.bindings.iter().enumerate() {
        let access = if *bind == Bind::Read { "read" } else { "read_write" };
        let _ = write!(text, "; {} {name}, storage, {access}", i + 1);
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
