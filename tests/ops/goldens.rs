//! Outputs of independent implementations (tools/goldens says which), by every operator on every backend.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use subquad::catalog::flags::{FlagKind, Flags};
use subquad::catalog::request::Request;
use subquad::catalog::spec::Op;
use subquad::gpu::{Algorithm, Caps};
use subquad::io::{self, TensorFile};
use subquad::operator::Operator;
use subquad::ops::find;
use subquad::tensor::{DType, Layout, Shape, TensorMap};
use subquad::verify::tolerance;

use crate::cover::runs_everything;
use crate::matrix;
use crate::support::{backends, context, on_gpu_with, test};
use crate::units;

/// Flags as typed: `--no-causal --scale 0.3`. The layout is none of the operator's.
fn flags(op: &Op, typed: &str) -> Flags {
    let mut flags = Flags::new();
    let mut words = typed.split_whitespace();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").unwrap_or_else(|| panic!("{typed}"));
        let switch = |name: &str| {
            let of_row = op.flags.iter().any(|flag| flag.name == name && matches!(flag.kind, FlagKind::Switch));
            of_row || matches!(name, "causal" | "decode")
        };
        match name.strip_prefix("no-").filter(|name| switch(name)) {
            Some(name) => flags.set(name, "false"),
            None if switch(name) => flags.set(name, "true"),
            None => {
                let value = words.next().unwrap_or_else(|| panic!("{typed}"));
                if name != "layout" {
                    assert!(op.flags.iter().any(|flag| flag.name == name), "{} has no flag {name}", op.name);
                    flags.set(name, value);
                }
            }
        }
    }
    flags
}

/// The operator of a file, and what it reads.
fn configure(op: &Op, file: &TensorFile, dtype: DType) -> (Box<dyn Operator>, TensorMap) {
    let layout = if file.metadata["layout"] == "bnhd" { Layout::Bnhd } else { Layout::Bhnd };
    let given: TensorMap = (op.inputs.iter().map(|spec| (spec.name, spec.name.to_owned())))
        .chain(op.state.iter().map(|spec| (spec.name, format!("{}_in", spec.name))))
        .filter_map(|(name, in_file)| Some((name.to_owned(), file.tensors.get(&in_file)?.clone())))
        .collect();
    let shapes: Vec<(String, Shape)> = (op.inputs.iter())
        .filter_map(|spec| Some((spec.name.to_owned(), given.get(spec.name)?.shape().clone())))
        .collect();
    let carry = file.tensors.iter().any(|(name, _)| name.ends_with("_out"));
    let mut flags = flags(op, &file.metadata["flags"]);
    // An output that only some runs write.
    let asked = op.outputs.iter().filter(|spec| spec.optional && file.tensors.get(spec.name).is_some());
    asked.for_each(|spec| flags.set(spec.name, "true"));
    let request = Request { flags: &flags, shapes: &shapes, layout, dtype, carry };
    let operator = op.configure(&request).unwrap();
    let slots = operator.slots();
    let stored = |name: &str| slots.iter().flat_map(|slot| &slot.parts).find(|part| part.name == name);
    let given = given.into_iter().map(|(name, tensor)| {
        let tensor = stored(&name).map_or_else(|| tensor.clone(), |part| tensor.cast(part.dtype));
        (name, tensor)
    });
    let given = given.collect();
    (operator, given)
}

/// The files; `None` in an unpacked package, which leaves them out. A checkout must have them.
fn files() -> Option<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/goldens");
    // `cargo package` writes Cargo.toml.orig.
    if root.join("Cargo.toml.orig").exists() && !folder.exists() {
        return None;
    }
    // `models` is a folder: whole models, which are no operator's.
    let paths = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.is_file()).collect();
    paths.sort();
    Some(paths)
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// The operator that a file is named after.
fn op_of(name: &str) -> &'static Op {
    find(name.split('_').next().unwrap()).unwrap_or_else(|| panic!("{name} is of no operator"))
}

/// Outputs are those of an independent implementation.
fn one(path: &Path) {
    let name = name(path);
    let op = op_of(&name);
    let file = io::read(path).unwrap();
    let (operator, given) = configure(op, &file, DType::F32);
    // Refused on a GPU for this one reason, and no other.
    let on_cpu = operator.program(&Caps::portable()).is_err_and(|e| e.to_string().contains("runs on the cpu backend"));
    for (backend, run) in backends().into_iter().filter(|(backend, _)| !on_cpu || *backend == "cpu") {
        let got = run(operator.as_ref(), &given);
        // The comparison goes over what was given back: nothing that the file expects may be missing from that.
        let expected = file.tensors.iter().filter(|(n, _)| is_output(op, n) || n.ends_with("_out")).count();
        assert_eq!(got.len(), expected, "{backend}: outputs are {}", got.names());
        assert_are_those(backend, op, &file, &got, 2e-6);
    }
}

fn is_output(op: &Op, name: &str) -> bool {
    op.outputs.iter().any(|spec| spec.name == name)
}

/// All of these outputs are within this relative error of those of the file. Returns the largest.
fn assert_are_those(what: &str, op: &Op, file: &TensorFile, got: &TensorMap, most: f64) -> f64 {
    let mut worst = 0.0f64;
    for (ours, tensor) in got.iter() {
        let theirs = if is_output(op, ours) { ours.to_owned() } else { format!("{ours}_out") };
        let want = file.tensors.get(&theirs).unwrap_or_else(|| panic!("no {theirs}"));
        let error = tolerance::relative_rms(&tensor.to_f64(), &want.to_f64());
        let source = &file.metadata["source"];
        assert!(error < most, "{what}: `{ours}` differs by {error:.2e} from {source}");
        worst = worst.max(error);
    }
    worst
}

/// The same by the chunk form of the recurrences in f32 and, with inputs rounded to f16, by matrix units and their emulation.
/// Prints the errors. Files of operators without the form, or of shapes that it does not take, pass.
fn in_chunks(path: &Path) {
    let Some(ctx) = context() else { return };
    let name = name(path);
    let (op, file) = (op_of(&name), io::read(path).unwrap());
    let usual = Caps { matrix: None, ..ctx.caps().clone() };
    let mut forms = vec![("chunks", DType::F32, usual, 2e-6)];
    if matrix::lacks(ctx).is_none() {
        // Rounding of inputs and outputs alone is off by up to 5e-4, and cancellation adds to that.
        forms.extend(
            matrix::forms_with(ctx, units::EMULATED).into_iter().map(|caps| ("matrices", DType::F16, caps, 2e-3)),
        );
    }
    for (form, dtype, caps, most) in forms {
        let (operator, given) = configure(op, &file, dtype);
        let caps = Caps { recurrence: Algorithm::Chunks, ..caps };
        let Ok(program) = operator.program(&caps) else { continue };
        if !program.variant().contains("chunks of ") || program.variant().contains("matri") != (form == "matrices") {
            continue;
        }
        let got = on_gpu_with(ctx, program, &given);
        let error = assert_are_those(form, op, &file, &got, most);
        eprintln!("{name}: {form} {:?} off by {error:.1e}", caps.matrix.map(|matrix| matrix.emulated));
    }
}

fn every_operator_has_its_goldens() {
    let Some(files) = files() else { return };
    let mut seen = BTreeMap::new();
    for path in files {
        *seen.entry(op_of(&name(&path)).name).or_insert(0) += 1;
    }
    let least = [
        ("conv1d", 12),
        ("embedding", 1),
        ("linear", 30),
        ("linformer", 8),
        ("mamba", 8),
        ("mta", 9),
        ("norm", 3),
        ("ramnet", 7),
        ("rope", 3),
        ("slay", 12),
        ("softmax", 50),
        ("ssd", 7),
        ("yat", 9),
    ];
    for (op, count) in least {
        assert!(seen.get(op).is_some_and(|seen| *seen >= count), "{op}: {seen:?}");
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![test(every_operator_has_its_goldens)];
    let trial = |path: PathBuf| {
        Trial::test(format!("goldens::{}", name(&path)), move || {
            one(&path);
            Ok(())
        })
    };
    let paths = files().unwrap_or_default();
    if runs_everything() {
        trials.extend(paths.iter().cloned().map(|path| {
            Trial::test(format!("goldens::chunks::{}", name(&path)), move || {
                in_chunks(&path);
                Ok(())
            })
        }));
    }
    trials.extend(paths.into_iter().map(trial));
    trials
}
