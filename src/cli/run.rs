//! `subquad run OP`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ArgMatches;

use super::Outcome;
use super::finite;
use super::inputs::{self, Inputs};
use super::kv_cache;
use super::options::{self, Options};
use super::pieces;
use super::provenance::{self, Provenance};
use super::reference;
use super::report::{self, Ui};
use super::summary::{Summary, Written};
use super::target::Target;
use crate::catalog::attention::LSE;
use crate::catalog::domain::Domain;
use crate::catalog::random;
use crate::catalog::spec::Op;
use crate::cpu::memory;
use crate::error::Error;
use crate::io::{self, is_dash};
use crate::operator::Operator;
use crate::tensor::{Access, DType, TensorMap};

/// Runs one operator on the tensors in a file.
pub(super) fn run(op: &'static Op, matches: &ArgMatches) -> Result<Outcome, Error> {
    let options = Options::parse(op, matches)?;
    let mut ui = Ui::new(options.quiet);
    let found = Inputs::read(op, &options, &mut ui)?;
    // Shapes are checked before an adapter is opened. Only after that is it known whether f16 is stored.
    let assumed = options.dtype.unwrap_or(DType::F32);
    let mut operator = found.configure(&options, assumed)?;
    if options.summary_out.is_some() {
        operator.check_summary().map_err(|error| options.flags.spell(error))?;
    }
    found.note_unused(&ui);

    let target = Target::open(&options.target, false, &mut ui)?;
    let (dtype, changed) = found.storage(options.dtype, target.f16(), &target.to_string())?;
    if let Some(line) = changed {
        ui.note(&line);
    }
    if dtype != assumed {
        operator = found.configure(&options, dtype)?;
    }
    let (absent, read, state_made) = (found.absent, found.read.clone(), found.made.clone());
    let mut inputs = found.into_tensors(&*operator, &options, &mut ui)?;
    // A GPU keeps a state that is not carried to itself.
    operator.check_memory(matches!(target, Target::Cpu))?;
    if options.verify {
        reference::check_memory(op, &*operator)?;
    }
    let drawn = draw(op, &options, &*operator, &inputs, &ui)?;
    for (name, tensor) in drawn.iter() {
        ui.note(&format!("drawn from seed {}: {name} {}", options.seed, tensor.shape()));
        inputs.insert(name, tensor.clone());
    }

    let made = Provenance::of(&*operator, &inputs);
    if let (Some(path), Some(metadata)) = (&options.state_in, &state_made) {
        made.check(path, metadata, options.state_any, &mut ui)?;
    }

    let run = target.execute_shown(op.name, &*operator, &inputs, &ui)?;
    let verdicts = if options.verify {
        reference::verify(op, &*operator, &inputs, &run.outputs, &options, &ui)
    } else {
        Vec::new()
    };

    let mut outputs = TensorMap::new();
    let mut state = if options.carry() { kv_cache::kept(op, &inputs, options.layout) } else { TensorMap::new() };
    pieces::carried(&*operator, &run.outputs).into_iter().for_each(|(name, tensor)| state.insert(name, tensor));
    for (name, tensor) in run.outputs {
        if let Some(spec) = inputs::output(op, &name) {
            let shape = absent.strip(spec, options.layout, tensor.shape());
            outputs.insert(name, tensor.reshape(shape));
        }
    }
    for (name, tensor) in outputs.iter().chain(state.iter()) {
        let domain = inputs::output(op, name).map_or(Domain::Finite, |spec| spec.domain);
        let half = tensor.dtype() == DType::F16;
        let when = if half { " in f16, which ends at 65504 (--dtype f32 has more room)" } else { "" };
        finite::check(op.name, name, (tensor, domain), when, options.strict, &mut ui)?;
    }
    let (summary, summary_verdicts) = pieces::summary(op, &*operator, &target, &inputs, &state, &options, &mut ui)?;
    if options.state_in.is_none() && options.state_out.is_none() {
        // What was carried only for the summary is shown there.
        state = TensorMap::new();
    }
    let lse: TensorMap = outputs.remove(LSE.name).map(|lse| (LSE.name.to_owned(), lse)).into_iter().collect();
    let metadata = metadata(op, &options, &target, dtype);
    let (mut of_state, mut of_summary) = (metadata.clone(), metadata.clone());
    of_state.insert(provenance::KEY.to_owned(), made.text());
    of_summary.insert(provenance::SUMMARY.to_owned(), made.text());
    let mut files = vec![
        (&options.output, &outputs, &metadata),
        (&options.state_out, &state, &of_state),
        (&options.summary_out, &summary, &of_summary),
        (&options.lse_out, &lse, &metadata),
    ];
    if !drawn.is_empty() {
        files.push((&options.save_params, &drawn, &metadata));
    } else if let Some(path) = &options.save_params {
        ui.note(&format!("{} is not written: {} drew no parameters from the seed", report::path(path), op.name));
    }
    let output = |(path, tensors, metadata)| {
        let path: &Option<PathBuf> = path;
        Some(io::Output { path: path.as_deref()?, tensors, metadata })
    };
    io::write_together(&files.into_iter().filter_map(output).collect::<Vec<_>>())?;

    let all_verdicts = verdicts.iter().chain(&summary_verdicts);
    let failed: Vec<_> = all_verdicts.filter(|(_, verdict)| !verdict.ok).map(|(name, _)| name.as_str()).collect();
    let summary = Summary {
        op,
        options: &options,
        target: &target,
        dtype,
        variant: &run.variant,
        wall: run.wall,
        workspace_bytes: run.workspace_bytes,
        read: &read,
        written: [
            Written { path: options.output.as_deref(), tensors: &outputs, verdicts: &verdicts },
            Written { path: options.state_out.as_deref(), tensors: &state, verdicts: &verdicts },
            Written { path: options.summary_out.as_deref(), tensors: &summary, verdicts: &summary_verdicts },
            Written { path: options.lse_out.as_deref(), tensors: &lse, verdicts: &verdicts },
        ],
        drawn: &drawn,
        warnings: ui.warnings(),
    };
    if options.json {
        report::json(&summary.json())?;
    } else if !options.quiet {
        // A tensor file may occupy standard output.
        let files = [&options.output, &options.state_out, &options.summary_out, &options.lse_out];
        let taken = files.into_iter().flatten().any(|path| is_dash(path));
        if taken {
            report::stderr_lines(&summary.text());
        } else {
            report::stdout(&summary.text())?;
        }
    }
    if failed.is_empty() {
        return Ok(Outcome::Done);
    }
    if options.quiet {
        let names = failed.join("`, `");
        report::stderr(&format!("error: {}: --verify: `{names}` exceeds its tolerance", op.name));
    }
    Ok(Outcome::Wrong)
}

/// Draws the parameters that the files lack.
fn draw(op: &Op, options: &Options, operator: &dyn Operator, inputs: &TensorMap, ui: &Ui) -> Result<TensorMap, Error> {
    /// Bytes of an element: as drawn, in the inputs of the run, and packed.
    const BYTES: u64 = 4 + 4 + 4;
    let slots = operator.slots();
    let missing = inputs::parts(&slots, Access::Read).filter(|(_, part)| inputs.get(part.name).is_none());
    let elements = missing.map(|(_, part)| part.shape.checked_count().unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
    let what = format!("drawing {}", report::bytes(elements.saturating_mul(4)));
    memory::check_bytes(op.name, &what, elements.saturating_mul(BYTES))?;
    ui.watched(&format!("{}: {what}", op.name), &|| None, || {
        random::parameters(op, &options.flags, operator, inputs, options.seed)
    })
}

/// How a file was made.
fn metadata(op: &Op, options: &Options, target: &Target, dtype: DType) -> BTreeMap<String, String> {
    let adapter = match target.adapter() {
        Some(name) => format!("{name} ({})", target.backend()),
        None => "cpu".to_owned(),
    };
    let pairs = [
        ("operator", op.name.to_owned()),
        ("flags", options::as_typed(op, &options.flags)),
        ("adapter", adapter),
        ("version", concat!("subquad ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("seed", options.seed.to_string()),
        ("layout", op.layout_name(options.layout).to_owned()),
        ("dtype", dtype.to_string()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
