//! Every kernel in every specialisation, without a GPU: naga's validator, the portable limits, the declared bindings and
//! uniforms, and naga's writers for Vulkan, Metal and DX12.
//!
//! With SUBQUAD_DUMP_WGSL=DIR the texts are left there for spirv-val and Tint (see tools/check).

use std::collections::HashSet;
use std::path::PathBuf;

use naga::back::{hlsl, msl, spv};
use subquad::gpu::source::print;
use subquad::gpu::{Kernel, Spec, limits, probes};
use subquad::ops::{OPS, parts};

fn kernels() -> Vec<(&'static Kernel, Spec)> {
    let list: Vec<_> =
        OPS.iter().flat_map(|op| op.kernels()).chain(parts::kernels()).chain(probes::kernels()).collect();
    assert!(list.len() >= OPS.len(), "operators without kernels");
    list
}

#[test]
fn kernels_fit_the_portable_limits_and_their_declarations() {
    let portable = wgpu::Limits::default();
    let mut labels = HashSet::new();
    for (kernel, spec) in kernels() {
        let label = spec.label(kernel);
        let resolved = limits::resolve(kernel, &spec).unwrap_or_else(|e| panic!("{label}: {e}"));
        let needs = limits::needs(kernel, &resolved).unwrap_or_else(|e| panic!("{label}: {e}"));
        limits::check(kernel, &needs, &portable).unwrap_or_else(|e| panic!("{label}: {e}"));
        assert!(labels.insert(label.clone()), "{label}: two specialisations of one label");
    }
}

/// A kernel over a limit is refused before a pipeline is made, also where the limit hides behind a const.
#[test]
fn a_kernel_over_a_limit_is_refused_with_both_numbers() {
    let (kernel, spec) = kernels().into_iter().find(|(k, _)| k.name == "linear_output").unwrap();
    let needs = limits::needs(kernel, &limits::resolve(kernel, &spec).unwrap()).unwrap();
    let tight = wgpu::Limits { max_compute_workgroup_storage_size: 1024, ..wgpu::Limits::default() };
    let error = limits::check(kernel, &needs, &tight).unwrap_err().to_string();
    let expected = format!(
        "kernel linear_output: workgroup memory (bytes) needs {}, the limit of this device is 1024",
        needs.workgroup_bytes
    );
    assert_eq!(error, expected);
    let few = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::default() };
    assert!(limits::check(kernel, &needs, &few).unwrap_err().to_string().contains("storage buffers needs 6"));
}

#[test]
fn uniforms_are_the_same_in_rust_and_wgsl() {
    for (kernel, spec) in kernels() {
        let module = limits::resolve(kernel, &spec).unwrap().module;
        let (_, params) = module.types.iter().find(|(_, t)| t.name.as_deref() == Some("Params")).unwrap();
        let naga::TypeInner::Struct { members, span } = &params.inner else { panic!("Params is no struct") };
        let fields: Vec<_> = members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset as usize)).collect();
        assert_eq!(fields, kernel.params, "{}", kernel.name);
        assert_eq!(*span as usize, kernel.params_size, "{}", kernel.name);
    }
}

#[test]
fn kernels_translate_for_vulkan_metal_and_dx12() {
    let dump = std::env::var_os("SUBQUAD_DUMP_WGSL").map(PathBuf::from);
    for (kernel, spec) in kernels() {
        let label = spec.label(kernel);
        let resolved = limits::resolve(kernel, &spec).unwrap();
        let (module, info) = (&resolved.module, &resolved.info);

        let words = spv::write_vec(module, info, &spv::Options { lang_version: (1, 3), ..Default::default() }, None)
            .unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}"));

        let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        let (metal, _) = msl::write_string(module, info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{label}: MSL: {e}"));
        assert!(metal.contains(kernel.name), "{label}: no such function in the MSL");

        let options =
            hlsl::Options { shader_model: hlsl::ShaderModel::V6_2, fake_missing_bindings: true, ..Default::default() };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
            .write(module, info, None)
            .unwrap_or_else(|e| panic!("{label}: HLSL: {e}"));
        assert!(text.contains(kernel.name), "{label}: no such function in the HLSL");

        if let Some(dir) = &dump {
            let write = |folder: &str, extension: &str, bytes: &[u8]| {
                let folder = dir.join(folder);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("{label}.{extension}")), bytes).unwrap();
            };
            write("spv", "spv", bytemuck::cast_slice(&words));
            write("web", "wgsl", print(kernel, &spec).as_bytes());
        }
    }
}

/// What `subquad wgsl` prints stands alone: overrides have the values that the pipeline would be made with.
#[test]
fn a_printed_kernel_is_the_kernel() {
    for (kernel, spec) in kernels() {
        let label = spec.label(kernel);
        let text = print(kernel, &spec);
        let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{label}: {}", e.message()));
        let flags = naga::valid::ValidationFlags::all();
        naga::valid::Validator::new(flags, limits::capabilities()).validate(&module).unwrap();
        for (name, value) in &spec.overrides {
            let line = format!("override {name}: u32 = {value}u;");
            assert!(text.contains(&line), "{label}: no `{line}`");
        }
        assert!(text.starts_with(&format!("// {label}\n// Group 0: 0 params, uniform, ")), "{label}");
    }
}

/// An error of the compiler names the file and line it is in, not those of the joined text.
#[test]
fn a_compile_error_names_file_and_line() {
    let (kernel, spec) = kernels().into_iter().find(|(k, _)| k.name == "linear_scan").unwrap();
    let mut sources = kernel.sources.to_vec();
    let broken = subquad::gpu::Source {
        path: "linear/broken.wgsl",
        text: "// one\n// two\nfn f() -> u32 { return nothing; }\n",
    };
    sources.push(broken);
    let kernel: &'static Kernel =
        Box::leak(Box::new(Kernel { sources: Box::leak(sources.into_boxed_slice()), ..*kernel }));
    let error = limits::resolve(kernel, &spec).err().unwrap().to_string();
    assert!(error.starts_with("kernel linear_scan: linear/broken.wgsl:3: "), "{error}");
}
