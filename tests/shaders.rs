//! Every kernel in every specialisation, without a GPU: naga's validator, the portable limits, the declared bindings and
//! uniforms, and naga's writers for Vulkan, Metal and DX12.
//!
//! With SUBQUAD_DUMP_WGSL=DIR the texts are left there for spirv-val and Tint (see tools/check).

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use naga::back::{hlsl, msl, spv};
use rayon::prelude::*;
use subquad::gpu::limits::{self, Resolved};
use subquad::gpu::shader::{print, uses_matrix_units};
use subquad::gpu::{Algorithm, Caps, Kernel, Matrix, Variant, self_test};
use subquad::measure::probes;
use subquad::operator::Operator;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::ops::primitives::matmul::{self, Output};
use subquad::ops::{self, linear, slay, softmax, ssd, yat};
use subquad::tensor::DType;

/// A kernel in one specialisation, parsed, validated and specialised.
struct Shader {
    kernel: &'static Kernel,
    spec: Variant,
    label: String,
    resolved: Resolved,
}

/// Every specialisation of every kernel, each parsed and validated once for all tests.
fn shaders() -> &'static [Shader] {
    static SHADERS: OnceLock<Vec<Shader>> = OnceLock::new();
    SHADERS.get_or_init(|| {
        let chunks = Caps { f16: true, recurrence: Algorithm::Chunks, ..Caps::portable() };
        let all = ops::all().flat_map(|op| [op.kernels(), op.kernels_for(&chunks)].concat()).chain(probes::kernels());
        let all = all.chain(self_test::kernels()).chain(with_subgroups()).chain(with_matrices()).chain(of_products());
        let mut list: Vec<_> = all.collect();
        // A part may have the same specialisation alone and in an operator.
        let mut seen = HashSet::new();
        list.retain(|(kernel, spec)| seen.insert((kernel.name, spec.clone())));
        assert!(list.len() >= ops::all().count(), "operators without kernels");
        let resolve = |(kernel, spec): (&'static Kernel, Variant)| {
            let label = spec.label(kernel);
            let resolved = limits::resolve(kernel, &spec).unwrap_or_else(|e| panic!("{label}: {e}"));
            Shader { kernel, spec, label, resolved }
        };
        list.into_par_iter().map(resolve).collect()
    })
}

/// The first shader of a kernel.
fn shader(name: &str) -> &'static Shader {
    shaders().iter().find(|shader| shader.kernel.name == name).unwrap()
}

/// Kernels that only devices with subgroups take, or only software adapters with subgroups.
fn with_subgroups() -> Vec<(&'static Kernel, Variant)> {
    let caps = Caps { f16: true, subgroups: Some((8, 8)), software: true, ..Caps::portable() };
    let mut list: Vec<(&'static Kernel, Variant)> = Vec::new();
    let mut take = |operator: &dyn Operator, caps: &Caps| {
        for step in operator.program(caps).unwrap().steps() {
            for spec in [Some(&step.spec), step.narrow.as_ref()].into_iter().flatten() {
                let known = list.iter().any(|(kernel, other)| kernel.name == step.kernel.name && other == spec);
                if !known && uses_subgroups(&print(step.kernel, spec)) {
                    list.push((step.kernel, spec.clone()));
                }
            }
        }
    };
    for (size, dtype) in [(4, DType::F32), (8, DType::F16), (32, DType::F32), (32, DType::F16), (64, DType::F32)] {
        let caps = Caps { subgroups: Some((size, size)), software: size < 32, ..caps.clone() };
        for heads in [1, 2, 6, 8] {
            let qkv = Qkv::new().heads(heads).kv_heads(1).len(1).dim(64).keys(5000).dtype(dtype);
            take(&softmax::Config::new(qkv), &caps);
            take(&yat::Config::new(qkv), &caps);
        }
        let one = linear::Config::new(Qkv::new().heads(2).len(1).dim(64).dtype(dtype));
        let one = linear::Config { normalize: Some(true), mode: Mode::new().carry().decode(), ..one };
        take(&one, &caps);
        take(&linear::Config { feature_map: Some(linear::FeatureMap::Performer), ..one.clone() }, &caps);
    }
    let forms = [(64, DType::F32), (128, DType::F16), (40, DType::F32)];
    for (dim, dtype) in forms {
        let plain = linear::Config::new(Qkv::new().heads(2).len(5000).dim(dim).dtype(dtype));
        let performer = linear::Config { feature_map: Some(linear::FeatureMap::Performer), ..plain.clone() };
        let gated = plain.clone().rule(linear::Rule::Gated(linear::Gate::Channel));
        let delta = plain.clone().rule(linear::Rule::GatedDelta(linear::Gate::Head));
        let spherical = slay::Config::new(Qkv::new().heads(2).len(5000).dim(dim).dtype(dtype));
        let spaces = ssd::Config { dtype, ..ssd::Config::new(5000, 2, dim, 128) };
        let operators: [&dyn Operator; 6] = [&plain, &performer, &gated, &delta, &spherical, &spaces];
        operators.iter().for_each(|operator| take(*operator, &caps));
    }
    for (size, weight) in [(8, DType::F32), (32, DType::F16), (64, DType::F32)] {
        let caps = Caps { subgroups: Some((size, size)), software: size < 32, ..caps.clone() };
        for rows in [1, 4, 8] {
            take(&matmul::Config { weight, bias: true, ..matmul::Config::new(rows, 64, 70) }, &caps);
        }
    }
    take(&matmul::Config::new(40, 64, 70), &caps);
    assert!(list.len() >= 60, "{} kernels", list.len());
    list
}

/// Forms of products that no case of the command has: several outputs, columns first, splits of K, and halves on devices without
/// f16 and on those with it.
fn of_products() -> Vec<(&'static Kernel, Variant)> {
    let mut list: Vec<(&'static Kernel, Variant)> = Vec::new();
    let turned = |width| Output { width, columns: true };
    let several =
        [vec![Output::new(24), turned(20)], vec![Output::new(3), turned(7), Output::new(1)], vec![turned(24)]];
    for outputs in several {
        for (rows, inner) in [(1, 24), (5, 37), (12, 64), (36, 1024), (36, 1027), (100, 40)] {
            for (dtype, weight, f16) in [
                (DType::F32, DType::F32, false),
                (DType::F32, DType::F16, false),
                (DType::F32, DType::F16, true),
                (DType::F16, DType::F32, true),
                (DType::F16, DType::F16, true),
            ] {
                for x_columns in [false, true] {
                    let one = outputs.len() == 1;
                    let base = matmul::Config {
                        dtype,
                        weight,
                        x_columns,
                        bias: x_columns,
                        ..matmul::Config::new(rows, inner, 1)
                    };
                    let config = matmul::Config { times: one, residual: one, outputs: outputs.clone(), ..base };
                    for step in config.program(&Caps { f16, ..Caps::portable() }).unwrap().steps() {
                        if !list.iter().any(|(kernel, other)| kernel.name == step.kernel.name && *other == step.spec) {
                            list.push((step.kernel, step.spec.clone()));
                        }
                    }
                }
            }
        }
    }
    list
}

/// Whether a shader calls functions of subgroups.
fn uses_subgroups(text: &str) -> bool {
    ["subgroupBroadcastFirst(", "subgroupMax(", "subgroupAdd("].iter().any(|call| text.contains(call))
}
/// Kernels for matrix units, and their emulation.
fn with_matrices() -> Vec<(&'static Kernel, Variant)> {
    let mut list: Vec<(&'static Kernel, Variant)> = Vec::new();
    for (tile, lanes, emulated) in [(8, 8, true), (8, 8, false), (16, 32, false), (16, 64, false)] {
        let matrix = Some(Matrix { tile, lanes, emulated });
        let caps = Caps { f16: true, matrix, limits: roomier(), ..Caps::portable() };
        // The emulation is for any device: what Tint compiles must fit into 16 KiB.
        let dims: &[(usize, usize)] =
            if emulated { &[(7, 5), (8, 8)] } else { &[(21, 19), (24, 20), (64, 64), (128, 128)] };
        for &(d, e) in dims {
            let qkv = Qkv::new().heads(2).len(300).dim(d).dim_v(e).dtype(DType::F16);
            let soft = softmax::Config::new(qkv);
            let spherical = yat::Config::new(qkv);
            let euclidean = yat::Config { kernel: yat::Kernel::Euclidean, ..spherical.clone() };
            let lengths = softmax::Config { lengths: true, causal: false, ..soft.clone() };
            let operators: [&dyn Operator; 4] = [&soft, &lengths, &spherical, &euclidean];
            for step in operators.iter().flat_map(|operator| operator.program(&caps).unwrap().steps().to_vec()) {
                assert!(step.kernel.entry == MATRIX, "{}", step.kernel.name);
                for spec in std::iter::once(step.spec).chain(step.narrow) {
                    if !list.iter().any(|(kernel, other)| kernel.name == step.kernel.name && *other == spec) {
                        list.push((step.kernel, spec));
                    }
                }
            }
        }
        // The emulation of these does not fit into what Tint compiles.
        let wide = Qkv::new().heads(4).len(4096).dtype(DType::F16);
        let identity = Some(linear::FeatureMap::Identity);
        for (d, e) in if emulated { &[][..] } else { &[(63, 50), (64, 64), (128, 96)][..] } {
            let plain = linear::Config::new(wide.dim(*d).dim_v(*e));
            let gated = linear::Config { mode: Mode::new().carry(), feature_map: identity, ..plain.clone() }
                .rule(linear::Rule::Gated(linear::Gate::Head));
            let ssd = ssd::Config { dtype: DType::F16, ..ssd::Config::new(4096, 24, *e, *d) };
            let operators: [&dyn Operator; 3] = [&plain, &gated, &ssd];
            for step in operators.iter().flat_map(|operator| operator.program(&caps).unwrap().steps().to_vec()) {
                let own = ["recurrence_segment_matrix", "recurrence_chunk_matrix"].contains(&step.kernel.entry);
                list.extend(
                    std::iter::once(step.spec).chain(step.narrow).filter(|_| own).map(|spec| (step.kernel, spec)),
                );
            }
        }
        let halves = |rows, inner, width| matmul::Config {
            dtype: DType::F16,
            weight: DType::F16,
            bias: true,
            ..matmul::Config::new(rows, inner, width)
        };
        let turned = matmul::Config {
            x_columns: true,
            outputs: vec![Output::new(20), Output { width: 7, columns: true }],
            ..halves(40, 37, 1)
        };
        for config in [halves(128, 64, 64), halves(40, 1024, 75), turned] {
            let step = config.program(&caps).unwrap().steps()[0].clone();
            assert_eq!(step.kernel.name, "primitives_matmul_matrix");
            list.push((step.kernel, step.spec));
        }
    }
    list
}

const MATRIX: &str = "attention_matrix";

/// The limits that kernels for matrix units need: 32 KiB of workgroup memory, which no device with such units lacks.
fn roomier() -> wgpu::Limits {
    wgpu::Limits { max_compute_workgroup_storage_size: 32768, ..wgpu::Limits::default() }
}

#[test]
fn kernels_fit_the_portable_limits_and_their_declarations() {
    let (portable, roomier) = (wgpu::Limits::default(), roomier());
    let mut labels = HashSet::new();
    for Shader { kernel, spec, label, resolved } in shaders() {
        let needs = limits::needs(kernel, spec, resolved).unwrap_or_else(|e| panic!("{label}: {e}"));
        let limits = if uses_matrix_units(spec) { &roomier } else { &portable };
        limits::check(kernel, &needs, limits).unwrap_or_else(|e| panic!("{label}: {e}"));
        assert!(labels.insert(label), "{label}: two specialisations of one label");
    }
}

/// A kernel over a limit is refused before a pipeline is made, also where the limit hides behind a const.
/// Mesa places workgroup arrays behind each other in the order of their declaration, and aligns vectors no better than numbers:
/// it then loads a vector that lies across a multiple of 16 bytes in parts.
#[test]
fn vectors_in_workgroup_memory_start_on_multiples_of_16_bytes() {
    let mut wrong = HashSet::new();
    for shader in shaders() {
        let module = &shader.resolved.module;
        let mut before = 0;
        for (_, global) in module.global_variables.iter().filter(|(_, one)| one.space == naga::AddressSpace::WorkGroup)
        {
            let inner = &module.types[global.ty].inner;
            let element =
                if let naga::TypeInner::Array { base, .. } = inner { &module.types[*base].inner } else { inner };
            let four = matches!(element, naga::TypeInner::Vector { size: naga::VectorSize::Quad, .. });
            if four && element.size(module.to_ctx()) == 16 && before % 16 != 0 {
                wrong.insert((shader.kernel.name, global.name.clone().unwrap_or_default()));
            }
            before += inner.size(module.to_ctx());
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_kernel_over_a_limit_is_refused_with_both_numbers() {
    let Shader { kernel, spec, resolved, .. } = shader("linear_output");
    let needs = limits::needs(kernel, spec, resolved).unwrap();
    let tight = wgpu::Limits { max_compute_workgroup_storage_size: 1024, ..wgpu::Limits::default() };
    let error = limits::check(kernel, &needs, &tight).unwrap_err().to_string();
    let expected = format!(
        "kernel linear_output: workgroup memory (bytes) needs {}, the limit of this device is 1024",
        needs.workgroup_bytes
    );
    assert_eq!(error, expected);
    let few = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::default() };
    assert!(limits::check(kernel, &needs, &few).unwrap_err().to_string().contains("storage buffers needs 5"));
}

#[test]
fn uniforms_are_the_same_in_rust_and_wgsl() {
    let mut own = 0;
    for Shader { kernel, spec, resolved, .. } in shaders() {
        let module = &resolved.module;
        own += usize::from(spec.own.is_some());
        for (name, uniform) in [("Params", Some(kernel.params)), ("Own", spec.own)] {
            let declared = module.types.iter().find(|(_, t)| t.name.as_deref() == Some(name));
            assert_eq!(declared.is_some(), uniform.is_some(), "{} {name}", kernel.name);
            let (Some((_, declared)), Some(uniform)) = (declared, uniform) else { continue };
            let naga::TypeInner::Struct { members, span } = &declared.inner else { panic!("{name} is no struct") };
            let fields: Vec<_> = members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset as usize)).collect();
            assert_eq!(fields, uniform.fields, "{} {name}", kernel.name);
            assert_eq!(*span as usize, uniform.size, "{} {name}", kernel.name);
        }
    }
    assert!(own > 0, "no kernel with a uniform of its own");
}

#[test]
fn kernels_translate_for_vulkan_metal_and_dx12() {
    let dump = std::env::var_os("SUBQUAD_DUMP_WGSL").map(PathBuf::from);
    if let Some(dir) = &dump {
        for folder in ["spv", "units", "web"] {
            std::fs::create_dir_all(dir.join(folder)).unwrap();
        }
    }
    shaders().par_iter().for_each(|Shader { kernel, spec, label, resolved }| {
        let (module, info) = (&resolved.module, &resolved.info);

        // Matrix units need Vulkan's memory model, which SPIR-V has from 1.5 on.
        let units = uses_matrix_units(spec);
        let lang_version = if units { (1, 5) } else { (1, 3) };
        let words = spv::write_vec(module, info, &spv::Options { lang_version, ..Default::default() }, None)
            .unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}"));
        let write = |folder: &str, extension: &str, bytes: &[u8]| {
            if let Some(dir) = &dump {
                let stem = spec.file_stem(kernel);
                std::fs::write(dir.join(folder).join(format!("{stem}.{extension}")), bytes).unwrap();
            }
        };
        write(if units { "units" } else { "spv" }, "spv", bytemuck::cast_slice(&words));
        if units {
            // Neither naga's writers for Metal and DX12 nor browsers know them.
            return;
        }

        let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        let (metal, _) = msl::write_string(module, info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{label}: MSL: {e}"));
        assert!(metal.contains(kernel.entry), "{label}: no such function in the MSL");

        let options =
            hlsl::Options { shader_model: hlsl::ShaderModel::V6_2, fake_missing_bindings: true, ..Default::default() };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
            .write(module, info, None)
            .unwrap_or_else(|e| panic!("{label}: HLSL: {e}"));
        assert!(text.contains(kernel.entry), "{label}: no such function in the HLSL");

        // naga takes these operations without asking, and does not know the directive that browsers ask for.
        let printed = print(kernel, spec);
        let asked = if uses_subgroups(&printed) { "enable subgroups;\n" } else { "" };
        write("web", "wgsl", format!("{asked}{printed}").as_bytes());
    });
}

/// What `subquad wgsl` prints stands alone. It is the text that was parsed and validated, under a comment, but for its
/// overrides: they have the values that the pipeline is made with. (Tint reads the printed texts; see tools/check.)
#[test]
fn a_printed_kernel_is_the_kernel() {
    for Shader { kernel, spec, label, resolved } in shaders() {
        let printed = print(kernel, spec);
        let mut lines = printed.lines();
        assert_eq!(lines.next(), Some(format!("// {label}").as_str()));
        assert!(lines.next().is_some_and(|line| line.starts_with("// Group 0: 0 params, uniform, ")), "{label}");
        let mut settled = 0;
        for line in resolved.source.text.lines() {
            let value = spec.overrides.iter().find(|(name, _)| line.starts_with(&format!("override {name}: ")));
            let expected = match value {
                Some((name, value)) => {
                    settled += 1;
                    let (_, comment) = line.split_once(';').unwrap();
                    format!("override {name}: u32 = {value}u;{comment}")
                }
                None => line.to_owned(),
            };
            assert_eq!(lines.next(), Some(expected.as_str()), "{label}");
        }
        assert_eq!(lines.next(), None, "{label}");
        assert_eq!(settled, spec.overrides.len(), "{label}: overrides that are not declared");
    }
}

/// An error of the compiler names the file and line it is in, not those of the joined text.
#[test]
fn a_compile_error_names_file_and_line() {
    let Shader { kernel, spec, .. } = shader("linear_scan");
    let mut sources = kernel.sources.to_vec();
    let broken = subquad::gpu::Fragment {
        path: "linear/broken.wgsl",
        text: "// one\n// two\nfn f() -> u32 { return nothing; }\n",
    };
    sources.push(broken);
    let kernel: &'static Kernel =
        Box::leak(Box::new(Kernel { sources: Box::leak(sources.into_boxed_slice()), ..**kernel }));
    let error = limits::resolve(kernel, spec).err().unwrap().to_string();
    assert!(error.starts_with("kernel linear_scan: linear/broken.wgsl:3: "), "{error}");
}
