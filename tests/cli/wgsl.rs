//! `subquad wgsl`.

use std::collections::BTreeSet;

use subquad::gpu::limits::capabilities;
use subquad::ops::all;

use super::Place;

/// naga's verdict on a printed kernel: it stands alone.
fn validate(name: &str, text: &str) {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
    // Words of two halves are unpacked where a weight is f16.
    let allowed = capabilities() | naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), allowed);
    validator.validate(&module).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    assert_eq!(module.entry_points.len(), 1, "{name}");
}

#[test]
fn every_specialisation_is_dumped_complete() {
    let place = Place::new();
    for op in all() {
        for target in ["web", "native"] {
            let folder = format!("{}_{target}", op.name);
            let listed = place.done(&format!("wgsl {} --all --target {target} --dump {folder}", op.name));
            let mut names = BTreeSet::new();
            for entry in std::fs::read_dir(place.path(&folder)).unwrap() {
                let path = entry.unwrap().path();
                let text = std::fs::read_to_string(&path).unwrap();
                validate(&path.display().to_string(), &text);
                names.insert(path.file_name().unwrap().to_string_lossy().into_owned());
            }
            let expected: BTreeSet<_> =
                op.kernels().iter().map(|(kernel, spec)| format!("{}.wgsl", spec.file_stem(kernel))).collect();
            assert_eq!(names, expected);
            assert_eq!(listed.lines().count(), names.len());
        }
    }
}

#[test]
fn without_a_directory_each_kernel_is_printed_once() {
    let place = Place::new();
    for op in all() {
        let text = place.done(&format!("wgsl {}", op.name));
        let kernels: BTreeSet<_> = op.kernels().iter().map(|(kernel, _)| (kernel.name, kernel.entry)).collect();
        assert_eq!(text.matches("@compute").count(), kernels.len());
        for (name, entry) in kernels {
            assert_eq!(
                text.matches(&format!("\n// {name}.")).count() + usize::from(text.starts_with(&format!("// {name}."))),
                1,
                "{name}"
            );
            assert_eq!(text.matches(&format!("fn {entry}(")).count(), 1, "{name}: {entry}");
        }
    }
    let label =
        "linear_scan.f32.count_off.spans.NORMALIZE=1.TRANSPOSED=0.CARRY=0.MODE=0.DECAY=0.POSITION=0.RUNNING_MAX=0";
    let one = place.done(&format!("wgsl linear --kernel {label} --target native"));
    validate("linear_scan", &one);
    assert!(one.contains("override MODE: u32 = 0u;"), "{one}");
}

#[test]
fn without_an_operator_the_kernels_of_all_are_printed_once() {
    let place = Place::new();
    let listed = place.done("wgsl --all --dump all");
    let labels = all().flat_map(|op| op.kernels()).map(|(kernel, spec)| format!("all/{}.wgsl", spec.file_stem(kernel)));
    assert_eq!(listed.lines().map(str::to_owned).collect::<BTreeSet<_>>(), labels.collect());
    assert_eq!(listed.lines().count(), std::fs::read_dir(place.path("all")).unwrap().count());
}

#[test]
fn what_cannot_be_printed_is_refused() {
    let place = Place::new();
    let ran = place.run("wgsl linear --kernel nothing");
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("no kernel has `nothing` in its name (one of the names is linear_"), "{ran:?}");
    assert_eq!(place.run("wgsl nothing").code, 2);
    assert_eq!(place.run("wgsl").code, 2);
    std::fs::write(place.path("file"), "").unwrap();
    let ran = place.run("wgsl linear --dump file");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.err, "error: file: expected a directory to write into, found a file\n");
}
