//! `subquad adapters`.

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::target::{Target, unless_forced};
use super::{Outcome, args, report};
use crate::error::Error;
use crate::gpu::context::{self, AdapterRequest, Candidate};

/// `subquad adapters`.
pub(super) fn command() -> Command {
    Command::new("adapters")
        .about("List the adapters of this machine, their limits and tiers, and why any was refused")
        .after_help(
            "The `refused` column explains why `run` does not select that adapter automatically. A software adapter \
             runs only if it is named: --adapter INDEX|NAME, --backend, WGPU_BACKEND or WGPU_ADAPTER_NAME. It is \
             tested first: if its driver computes wrong results, it runs only with --force-adapter. The cpu \
             backend is always available. GL is opened for this list and where it is named, so a plain `run` never \
             selects it.",
        )
        .arg(args::json())
}

/// Lists the adapters of this machine.
pub(super) fn adapters(matches: &ArgMatches) -> Result<Outcome, Error> {
    let mut candidates = context::candidates(&every());
    candidates.iter_mut().filter(|one| one.software).for_each(test);
    if args::is_on(matches, "json") {
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "adapters",
            "adapters": candidates.iter().map(object).collect::<Vec<_>>(),
            "cpu": {"threads": Target::Cpu.threads(), "f16": true},
        }))?;
        return Ok(Outcome::Done);
    }
    let header = ["index", "name", "backend", "type", "driver"];
    let mut rows: Vec<_> = candidates.iter().map(row).collect();
    let cpu = ["-", &Target::Cpu.to_string(), "cpu", "cpu", "-"];
    rows.push(cpu.map(str::to_owned).to_vec());
    let mut text = report::table(&header, &rows, &[]);
    let header = ["index", "tier", "f16", "subgroups", "matrices", "timestamps", "refused"];
    let mut rows: Vec<_> = candidates.iter().map(features).collect();
    rows.push(["-", "-", "yes", "-", "-", "-", "no"].map(str::to_owned).to_vec());
    text.push('\n');
    text.push_str(&report::table(&header, &rows, &[]));
    if !candidates.is_empty() {
        let header = ["index", "buffer", "binding", "workgroup memory", "invocations", "storage buffers"];
        let rows: Vec<_> = candidates.iter().map(limits).collect();
        text.push('\n');
        text.push_str(&report::table(&header, &rows, &[]));
    }
    report::stdout(&text)?;
    Ok(Outcome::Done)
}

/// Every adapter, GL's too, which other commands open only if it is named.
fn every() -> AdapterRequest {
    AdapterRequest { backends: wgpu::Backends::all(), software: true, ..AdapterRequest::default() }
}

/// Tests a software adapter. If that finds nothing wrong, it is refused as `run` refuses it without its name.
fn test(candidate: &mut Candidate) {
    if candidate.refused.is_none() {
        candidate.refused = Some(match pollster::block_on(candidate.open_tested(false)) {
            Err(error) => error.to_string(),
            Ok(_) => candidate.fault.as_deref().map_or_else(|| context::SLOW.to_owned(), unless_forced),
        });
    }
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.into()
}

fn kind(candidate: &Candidate) -> &'static str {
    match candidate.info.device_type {
        _ if candidate.software => "software",
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    }
}

fn row(candidate: &Candidate) -> Vec<String> {
    vec![
        candidate.index.to_string(),
        candidate.info.name.clone(),
        candidate.info.backend.to_str().into(),
        kind(candidate).into(),
        candidate.driver(),
    ]
}

/// Why `run` does not select an adapter automatically.
fn refused(candidate: &Candidate) -> Option<String> {
    let gl = candidate.info.backend == wgpu::Backend::Gl;
    candidate.refused.clone().or_else(|| gl.then(|| "GL is used only if it is named".into()))
}

fn features(candidate: &Candidate) -> Vec<String> {
    let subgroups = match candidate.subgroups {
        Some((least, most)) if least == most => least.to_string(),
        Some((least, most)) => format!("{least}-{most}"),
        None => "no".into(),
    };
    vec![
        candidate.index.to_string(),
        candidate.tier.into(),
        yes(candidate.f16),
        subgroups,
        candidate.matrix.map_or_else(|| "no".into(), |matrix| format!("{0}x{0}", matrix.tile)),
        yes(candidate.timestamps),
        refused(candidate).unwrap_or_else(|| "no".into()),
    ]
}

fn limits(candidate: &Candidate) -> Vec<String> {
    let limits = &candidate.limits;
    vec![
        candidate.index.to_string(),
        report::bytes(limits.max_buffer_size),
        report::bytes(limits.max_storage_buffer_binding_size),
        report::bytes(limits.max_compute_workgroup_storage_size.into()),
        limits.max_compute_invocations_per_workgroup.to_string(),
        limits.max_storage_buffers_per_shader_stage.to_string(),
    ]
}

fn object(candidate: &Candidate) -> Value {
    let limits = &candidate.limits;
    json!({
        "index": candidate.index,
        "name": candidate.info.name,
        "backend": candidate.info.backend.to_str(),
        "type": kind(candidate),
        "driver": candidate.driver(),
        "f16": candidate.f16,
        "subgroups": candidate.subgroups.map(|(least, most)| [least, most]),
        "matrix": candidate.matrix.map(|matrix| matrix.tile),
        "timestamps": candidate.timestamps,
        "tier": candidate.tier,
        "limits": {
            "max_buffer_size": limits.max_buffer_size,
            "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
            "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
            "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
            "max_storage_buffers_per_shader_stage": limits.max_storage_buffers_per_shader_stage,
        },
        "refused": refused(candidate),
        "fault": candidate.fault,
    })
}
