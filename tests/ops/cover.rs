//! The cases that a software adapter runs.
//!
//! It takes a second or more to compile a kernel, and most cases differ from others only in the size of a tile. So it runs
//! those cases that together cover all kernels, and all other cases of the kernels that are compiled for these. Hardware
//! runs all cases, and so does every adapter with SUBQUAD_ALL=1 (`tools/check --all`); the cpu backend always does.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use subquad::catalog::case::Case;
use subquad::catalog::spec::Op;
use subquad::gpu::{Caps, Kernel, Variant};
use subquad::ops;
use subquad::tensor::DType;

use crate::support::{Runner, backends_for, context};

/// Names what a step covers: its kernel with these fragments and this storage type, and for each constant and override
/// whether it is 0, 1 or more. Switches are 0 or 1, and tile sizes change only how often the same lines run.
fn covered(kernel: &Kernel, spec: &Variant) -> impl Iterator<Item = String> {
    let mut family = format!("{} {}", kernel.name, spec.elem);
    spec.fragments.iter().for_each(|fragment| family = format!("{family} {}", fragment.path));
    let of = move |(name, value): &(&str, u32)| format!("{family} {name}={}", value.min(&2));
    let values: Vec<_> = spec.consts.iter().chain(&spec.overrides).map(of).collect();
    values.into_iter()
}

/// Capabilities that every adapter has, and f16.
pub(crate) fn usual() -> Caps {
    Caps { f16: true, ..Caps::portable() }
}

/// Programs whose kernels are to be covered: those for some capabilities, and of their kernels those with these entry points, or
/// all.
pub(crate) struct Programs<'a> {
    pub(crate) caps: &'a Caps,
    pub(crate) entries: Option<&'a [&'a str]>,
}

/// The operator's cases that a filter lets through, reduced to as many as together cover what the programs of all of them cover,
/// and then every other one whose kernels are compiled for these.
pub(crate) fn covering(op: &Op, programs: &Programs<'_>, filter: impl Fn(&Case) -> bool) -> Vec<Case> {
    struct Candidate {
        case: Case,
        covers: HashSet<String>,
        specs: Vec<String>,
    }
    let candidate = |case: Case| {
        let program = case.configure(op).unwrap().program(programs.caps).unwrap();
        let all = || program.steps().iter().map(|step| (step.kernel, &step.spec));
        let steps =
            || all().filter(|(kernel, _)| programs.entries.is_none_or(|entries| entries.contains(&kernel.entry)));
        let mut covers: HashSet<String> = steps().flat_map(|(kernel, spec)| covered(kernel, spec)).collect();
        // The last vector of a row may have elements that are none of the tensor's.
        let ragged = case.axes.iter().any(|(letter, length)| ["D", "E", "P", "S"].contains(letter) && length % 4 > 0);
        covers.extend(steps().filter(|_| ragged).map(|(kernel, _)| format!("{} ragged", kernel.name)));
        Candidate { covers, specs: all().map(|(kernel, spec)| spec.label(kernel)).collect(), case }
    };
    let mut rest: Vec<_> = (op.cases)().into_iter().filter(|case| !case.host && filter(case)).map(candidate).collect();
    let (mut seen, mut compiled, mut chosen) = (HashSet::new(), HashSet::new(), Vec::new());
    // Always take the case that adds most, so that few are enough.
    while let Some(most) = (0..rest.len()).max_by_key(|&at| rest[at].covers.difference(&seen).count()) {
        if rest[most].covers.is_subset(&seen) {
            break;
        }
        let next = rest.swap_remove(most);
        seen.extend(next.covers);
        compiled.extend(next.specs);
        chosen.push(next.case);
    }
    let free = |other: Candidate| other.specs.iter().all(|spec| compiled.contains(spec)).then_some(other.case);
    chosen.extend(rest.into_iter().filter_map(free));
    chosen
}

/// Whether the adapter runs everything: hardware does, and a software adapter with SUBQUAD_ALL=1.
pub(crate) fn runs_everything() -> bool {
    let all = std::env::var("SUBQUAD_ALL").is_ok_and(|v| v == "1");
    all || context().is_none_or(|ctx| ctx.info().device_type != wgpu::DeviceType::Cpu)
}

/// Whether the adapter runs this case, if it can. Quick cases cover each other, without the slow ones.
pub(crate) fn runs_here(op: &Op, case: &Case) -> bool {
    static NAMES: OnceLock<HashMap<&str, HashSet<String>>> = OnceLock::new();
    let programs = Programs { caps: &usual(), entries: None };
    let names = |op: &Op| covering(op, &programs, |case| case.quick).into_iter().map(|case| case.name).collect();
    let covering = || NAMES.get_or_init(|| ops::all().map(|op| (op.name, names(op))).collect());
    !case.host && (runs_everything() || covering()[op.name].contains(&case.name))
}

/// The backends that run this case.
pub(crate) fn backends_of(op: &Op, case: &Case) -> Vec<(&'static str, Runner)> {
    let here = runs_here(op, case);
    backends_for(case.dtype).filter(|(backend, _)| here || *backend == "cpu").collect()
}

/// The reason to ignore a trial, in whole or in part, because the adapter lacks this storage type.
pub(crate) fn lacks(dtype: DType) -> Option<String> {
    let ctx = context()?;
    (dtype == DType::F16 && !ctx.caps().f16).then(|| format!("{} has no f16", ctx.info().name))
}
