//! Where an operator runs: the flags `--backend` and `--adapter`, the variables `WGPU_BACKEND` and `WGPU_ADAPTER_NAME`, and
//! the choice that follows from them.

use std::sync::Arc;

use clap::ArgMatches;

use super::args;
use super::report::{self, Ui};
use crate::cpu::watch::Watch;
use crate::error::Error;
use crate::gpu::Context;
use crate::gpu::context::{self, AdapterRequest, Candidate, Select};
use crate::measure::Place;
use crate::operator::Operator;
use crate::tensor::TensorMap;
use crate::verify::run::{self, Run};

/// The values of `--backend`, `--adapter`, `--force-adapter` and `--tier`.
#[derive(Debug, Clone, Default)]
pub(super) struct TargetArgs {
    backend: Option<String>,
    adapter: Option<String>,
    /// Whether an adapter that computes wrong results may be used.
    force: bool,
    /// Whether only kernels of any WebGPU device are used.
    portable: bool,
}

/// The values of the environment variables that wgpu programs honour.
#[derive(Debug, Clone, Default)]
struct Variables {
    backend: Option<String>,
    adapter: Option<String>,
}

/// The choice that follows from flags and variables.
#[derive(Debug)]
enum Choice {
    Cpu,
    Gpu { request: AdapterRequest, asked: Option<String> },
}

impl TargetArgs {
    /// Reads the arguments.
    ///
    /// # Errors
    /// [`Error::Usage`] if they contradict each other.
    pub(super) fn of(matches: &ArgMatches) -> Result<Self, Error> {
        Self::new(
            args::word_of(matches, "backend"),
            args::word_of(matches, "adapter"),
            args::is_on(matches, "force-adapter"),
            is_portable(matches),
        )
    }

    /// Makes a target of the values of `--backend`, `--adapter`, `--force-adapter` and `--tier`.
    ///
    /// # Errors
    /// [`Error::Usage`] if they contradict each other.
    fn new(backend: Option<&str>, adapter: Option<&str>, force: bool, portable: bool) -> Result<Self, Error> {
        for (flag, given) in
            [("--adapter", adapter.is_some()), ("--force-adapter", force), ("--tier portable", portable)]
        {
            if given && backend == Some("cpu") {
                return Err(Error::Usage(format!("{flag} cannot be used with --backend cpu")));
            }
        }
        if adapter == Some("") {
            return Err(Error::Usage("--adapter needs an index or a part of a name".into()));
        }
        let [backend, adapter] = [backend, adapter].map(|word| word.map(str::to_owned));
        Ok(Self { backend, adapter, force, portable })
    }

    /// Whether `--backend` was given.
    pub(super) fn backend(&self) -> Option<&str> {
        self.backend.as_deref()
    }

    /// A flag takes precedence over a variable: `--backend` over `WGPU_BACKEND`, `--adapter` over `WGPU_ADAPTER_NAME`.
    fn resolve(&self, variables: &Variables) -> Result<Choice, Error> {
        let mut request = AdapterRequest { force: self.force, portable: self.portable, ..AdapterRequest::default() };
        let mut asked = Vec::new();
        match self.backend.as_deref() {
            Some("cpu") => return Ok(Choice::Cpu),
            Some("auto") => {}
            Some(name) => {
                request.backends = wgpu::Backends::from_comma_list(name);
                asked.push(format!("--backend {name}"));
            }
            None => {
                if let Some(list) = &variables.backend {
                    request.backends = wgpu::Backends::from_comma_list(list);
                    asked.push(format!("WGPU_BACKEND={list}"));
                    if request.backends.is_empty() {
                        return Err(Error::NoAdapter(format!(
                            "WGPU_BACKEND: expected a list of vulkan, metal, dx12, gl, found `{list}`"
                        )));
                    }
                }
            }
        }
        if let Some(adapter) = &self.adapter {
            request.select = Some(select(adapter));
            asked.push(format!("--adapter {adapter}"));
        } else if let Some(name) = &variables.adapter {
            request.select = Some(Select::Name(name.clone()));
            asked.push(format!("WGPU_ADAPTER_NAME={name}"));
        }
        if request.select.is_some() && request.backends == AdapterRequest::default().backends {
            // An adapter of GL can be named without naming its backend.
            request.backends = wgpu::Backends::all();
        }
        request.software = !asked.is_empty();
        Ok(Choice::Gpu { request, asked: (!asked.is_empty()).then(|| asked.join(", ")) })
    }
}

/// Whether `--tier` asks for kernels of any WebGPU device only.
fn is_portable(matches: &ArgMatches) -> bool {
    args::word_of(matches, "tier") == Some("portable")
}

/// `--adapter` as an index or a part of a name.
fn select(adapter: &str) -> Select {
    adapter.parse().map_or_else(|_| Select::Name(adapter.to_owned()), Select::Index)
}

impl Variables {
    fn read() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self { backend: read("WGPU_BACKEND"), adapter: read("WGPU_ADAPTER_NAME") }
    }
}

/// An adapter in the line that says why the `cpu` backend was chosen.
struct Found {
    /// `0 llvmpipe (vulkan)`.
    title: String,
    software: bool,
    /// Whether it can run if it is named.
    usable: bool,
}

fn found() -> Vec<Found> {
    let request = AdapterRequest { software: true, ..AdapterRequest::default() };
    let one = |candidate: Candidate| Found {
        title: candidate.short_title(),
        software: candidate.software,
        usable: candidate.refused.is_none(),
    };
    context::candidates(&request).into_iter().map(one).collect()
}

/// Why `auto` chose the `cpu` backend.
fn no_hardware(found: &[Found]) -> String {
    let named: Vec<_> = found.iter().filter(|one| one.software && one.usable).map(|one| one.title.as_str()).collect();
    if found.is_empty() {
        "no adapter found".into()
    } else if named.is_empty() {
        "no usable adapter; `subquad adapters` says why".into()
    } else {
        let hardware = found.iter().any(|one| !one.software);
        let none = if hardware { "no usable hardware adapter" } else { "no hardware adapter" };
        format!("{none}; software adapters run if named: {}", named.join(", "))
    }
}

/// The error for an adapter that computes wrong results, with the flag that uses it nevertheless; else the error itself.
fn with_flag(error: Error, candidates: &[Candidate]) -> Error {
    match (&error, candidates.iter().find_map(Candidate::wrong)) {
        (Error::NoAdapter(_), Some(wrong)) => Error::NoAdapter(unless_forced(&wrong)),
        _ => error,
    }
}

/// A reason to refuse an adapter, with the flag that uses it nevertheless.
pub(super) fn unless_forced(reason: &str) -> String {
    format!("{reason}; --force-adapter uses it anyway")
}

/// Something that runs operators.
pub(super) enum Target {
    /// The `cpu` backend.
    Cpu,
    /// An adapter, opened.
    Gpu(Box<Opened>),
}

/// A device, and the adapter it was opened on.
pub(super) struct Opened {
    context: Context,
    candidate: Candidate,
    shader_checks: bool,
    portable: bool,
}

impl Target {
    /// Opens the adapter or backend that was asked for, and says on stderr which one was chosen and why.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if something was asked for that is not there.
    pub(super) fn open(args: &TargetArgs, shader_checks: bool, ui: &mut Ui) -> Result<Self, Error> {
        let (request, asked) = match args.resolve(&Variables::read())? {
            Choice::Cpu => return Ok(Self::Cpu),
            Choice::Gpu { request, asked } => (request, asked),
        };
        let request = AdapterRequest { shader_checks, ..request };
        let mut candidates = context::candidates(&request);
        let opened = pollster::block_on(context::open_best(&mut candidates, &request));
        match (opened.map_err(|error| with_flag(error, &candidates)), asked) {
            (Ok((at, context)), asked) => {
                let candidate = candidates.swap_remove(at);
                // The next best was taken instead.
                candidates.iter().for_each(|other| skipped(other, ui));
                warn(&candidate, ui);
                let target = Self::Gpu(Box::new(Opened { context, candidate, shader_checks, portable: args.portable }));
                let why = asked.unwrap_or_else(|| "the best hardware adapter".into());
                ui.note(&format!("running on {target} ({why})"));
                Ok(target)
            }
            (Err(error), Some(_)) => Err(error),
            (Err(error), None) => {
                ui.note_with(|| {
                    // `subquad adapters` has the reasons in full.
                    let why = match error {
                        Error::NoAdapter(_) => no_hardware(&found()),
                        other => other.to_string(),
                    };
                    format!("running on {} ({why})", Self::Cpu)
                });
                Ok(Self::Cpu)
            }
        }
    }

    /// Opens an adapter without testing it.
    fn of(candidate: Candidate, shader_checks: bool, portable: bool) -> Result<Self, Error> {
        let context = pollster::block_on(candidate.open(shader_checks))?;
        Ok(Self::Gpu(Box::new(Opened { context, candidate, shader_checks, portable })))
    }

    /// Opens a new device on the same adapter, after a device is lost. The adapter is looked up again.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        let Self::Gpu(opened) = self else { return Ok(()) };
        let select = Some(Select::Index(opened.candidate.index));
        let backends = opened.candidate.info.backend.into();
        let portable = opened.portable;
        let request = AdapterRequest { backends, select, software: true, portable, ..AdapterRequest::default() };
        let same = |c: &Candidate| c.info.name == opened.candidate.info.name;
        let candidate = context::best(context::candidates(&request).into_iter().filter(same).collect(), &request)?;
        *self = Self::of(candidate, opened.shader_checks, portable)?;
        Ok(())
    }

    /// The targets that `--backend` and `--adapter`, which can be repeated or `all`, ask for.
    pub(super) fn several(matches: &ArgMatches, shader_checks: bool, ui: &mut Ui) -> Result<Several, Error> {
        let mut several = Several { open: Vec::new(), failed: Vec::new() };
        let backend = args::word_of(matches, "backend");
        let (force, portable) = (args::is_on(matches, "force-adapter"), is_portable(matches));
        let adapters: Vec<_> = matches.get_many::<String>("adapter").into_iter().flatten().collect();
        if adapters.is_empty() {
            several.open.push(Self::open(&TargetArgs::new(backend, None, force, portable)?, shader_checks, ui)?);
        }
        for adapter in adapters {
            let one = TargetArgs::new(backend, Some(adapter), force, portable)?;
            if adapter == "all" {
                several.add_all(&one, shader_checks, ui)?;
            } else if adapter == "cpu" && backend.is_none() {
                several.open.push(Self::Cpu);
            } else {
                several.open.push(Self::open(&one, shader_checks, ui)?);
            }
        }
        // An adapter that is named twice is used once.
        let mut seen = Vec::new();
        several.open.retain(|target| {
            let index = target.index();
            !seen.contains(&index) && (seen.push(index), true).1
        });
        Ok(several)
    }

    /// Index of the adapter; none for the `cpu` backend.
    fn index(&self) -> Option<usize> {
        match self {
            Self::Cpu => None,
            Self::Gpu(opened) => Some(opened.candidate.index),
        }
    }

    /// `cpu`, `vulkan`, `metal`, `dx12` or `gl`.
    pub(super) fn backend(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu(opened) => opened.candidate.info.backend.to_str(),
        }
    }

    /// Name of the adapter; none for the `cpu` backend.
    pub(super) fn adapter(&self) -> Option<&str> {
        match self {
            Self::Cpu => None,
            Self::Gpu(opened) => Some(&opened.candidate.info.name),
        }
    }

    /// Threads of the `cpu` backend.
    pub(super) fn threads(&self) -> Option<usize> {
        match self {
            Self::Cpu => Some(rayon::current_num_threads()),
            Self::Gpu(_) => None,
        }
    }

    /// Name and version of the adapter's driver; none for the `cpu` backend.
    pub(super) fn driver(&self) -> Option<String> {
        match self {
            Self::Cpu => None,
            Self::Gpu(opened) => Some(opened.candidate.driver()),
        }
    }

    /// Whether it is a software adapter, which runs on the CPU.
    pub(super) fn software(&self) -> bool {
        matches!(self, Self::Gpu(opened) if opened.candidate.software)
    }

    /// The target in the terms of the measuring code.
    pub(super) fn place(&self) -> Place<'_> {
        match self {
            Self::Cpu => Place::Cpu,
            Self::Gpu(opened) => Place::Gpu(&opened.context),
        }
    }

    /// Whether tensors can be stored as f16.
    pub(super) fn f16(&self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Gpu(opened) => opened.context.caps().f16,
        }
    }

    /// The device; `None` for the `cpu` backend.
    pub(super) fn context(&self) -> Option<&Context> {
        match self {
            Self::Cpu => None,
            Self::Gpu(opened) => Some(&opened.context),
        }
    }

    /// Runs an operator and shows how far it is.
    pub(super) fn execute_shown(
        &self,
        name: &str,
        operator: &dyn Operator,
        inputs: &TensorMap,
        ui: &Ui,
    ) -> Result<Run, Error> {
        match self {
            Self::Cpu => {
                let (watch, flops) = (Arc::new(Watch::default()), operator.cost().flops);
                let run = || watch.run(|| run::cpu(operator, inputs));
                let run = ui.watched(name, &|| Some(watch.share(flops)), run);
                run.unwrap_or_else(|| Err(Error::Device("the run was stopped".into())))
            }
            Self::Gpu(opened) => {
                let mut progress = ui.progress(name);
                run::gpu(&opened.context, operator, inputs, false, &mut |share| progress.set(share))
            }
        }
    }

    /// Runs an operator. With `poison`, a GPU's outputs and workspace are filled with NaN first.
    pub(super) fn execute(
        &self,
        operator: &dyn Operator,
        inputs: &TensorMap,
        poison: bool,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Run, Error> {
        match self {
            Self::Cpu => run::cpu(operator, inputs),
            Self::Gpu(opened) => run::gpu(&opened.context, operator, inputs, poison, progress),
        }
    }
}

#[cfg(test)]
impl Target {
    /// Any adapter, software too; `None`, with a printed line, where there is none and that is allowed.
    pub(super) fn any() -> Option<Self> {
        let request = AdapterRequest { software: true, ..AdapterRequest::default() };
        match context::best(context::candidates(&request), &request).and_then(|best| Self::of(best, false, false)) {
            Ok(target) => Some(target),
            Err(error) if std::env::var("SUBQUAD_ALLOW_NO_ADAPTER").is_ok_and(|v| v == "1") => {
                eprintln!("SKIPPED: {error}");
                None
            }
            Err(error) => panic!("{error}; set SUBQUAD_ALLOW_NO_ADAPTER=1 to run the tests that need none"),
        }
    }
}

/// Warns of an adapter that is used although it computes wrong results.
fn warn(candidate: &Candidate, ui: &mut Ui) {
    if let Some(fault) = &candidate.fault {
        ui.warn(format!("adapter {}: {fault}; used because of --force-adapter", candidate.short_title()));
    }
}

/// Says that an adapter is not used because it computes wrong results.
fn skipped(candidate: &Candidate, ui: &Ui) {
    if let Some(fault) = &candidate.fault {
        ui.note(&format!("skipped: adapter {}: {}", candidate.title(), unless_forced(fault)));
    }
}

/// Several targets.
pub(super) struct Several {
    pub open: Vec<Target>,
    /// Adapters that did not open, and why.
    pub failed: Vec<String>,
}

impl Several {
    /// Adds every adapter of the backend asked for. If none was, adds all adapters and the cpu backend.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if nothing is left to run on.
    fn add_all(&mut self, args: &TargetArgs, shader_checks: bool, ui: &mut Ui) -> Result<(), Error> {
        let backends = wgpu::Backends::all();
        let portable = args.portable;
        let mut request = AdapterRequest { backends, software: true, portable, ..AdapterRequest::default() };
        let named = args.backend().filter(|backend| *backend != "auto");
        if let Some(backend) = named {
            request.backends = wgpu::Backends::from_comma_list(backend);
        }
        let mut refused = Vec::new();
        for mut candidate in context::candidates(&request) {
            if let Some(reason) = &candidate.refused {
                ui.note(&format!("skipped: adapter {}: {reason}", candidate.title()));
                refused.push(candidate);
                continue;
            }
            match pollster::block_on(candidate.open_tested(shader_checks)) {
                Ok(context) => {
                    if candidate.fault.is_some() && !args.force {
                        skipped(&candidate, ui);
                        candidate.refused.clone_from(&candidate.fault);
                        refused.push(candidate);
                        continue;
                    }
                    warn(&candidate, ui);
                    self.open.push(Target::Gpu(Box::new(Opened { context, candidate, shader_checks, portable })));
                }
                Err(error) => {
                    report::error(&error);
                    self.failed.push(error.to_string());
                }
            }
        }
        if named.is_none() {
            self.open.push(Target::Cpu);
        }
        if self.open.is_empty() && self.failed.is_empty() {
            return Err(with_flag(context::none_found(&refused, &request), &refused));
        }
        Ok(())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.adapter(), self.threads()) {
            (Some(adapter), _) => write!(f, "{adapter}, {}", self.backend()),
            (None, Some(1)) => f.write_str("cpu, 1 thread"),
            (None, threads) => write!(f, "cpu, {} threads", threads.unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: [&str; 2], variables: [&str; 2]) -> String {
        fn given(word: &str) -> Option<&str> {
            (!word.is_empty()).then_some(word)
        }
        let [backend, adapter] = variables.map(|word| given(word).map(str::to_owned));
        let variables = Variables { backend, adapter };
        let [backend, adapter] = flags.map(given);
        match TargetArgs::new(backend, adapter, false, false).and_then(|args| args.resolve(&variables)) {
            Err(error) => error.to_string(),
            Ok(Choice::Cpu) => "cpu".into(),
            Ok(Choice::Gpu { request, asked }) => format!(
                "{} {} {} {}",
                match request.backends {
                    all if all == wgpu::Backends::all() => "any",
                    plain if plain == AdapterRequest::default().backends => "any-but-gl",
                    _ => "some",
                },
                match request.select {
                    None => "first".into(),
                    Some(Select::Index(index)) => format!("#{index}"),
                    Some(Select::Name(name)) => name,
                },
                if request.software { "software" } else { "hardware" },
                asked.unwrap_or_else(|| "unasked".into())
            ),
        }
    }

    #[test]
    fn a_flag_beats_a_variable_and_software_must_be_asked_for() {
        assert_eq!(resolve(["", ""], ["", ""]), "any-but-gl first hardware unasked");
        assert_eq!(resolve(["auto", ""], ["", ""]), "any-but-gl first hardware unasked");
        assert_eq!(resolve(["auto", ""], ["gl", ""]), "any-but-gl first hardware unasked");
        assert_eq!(resolve(["", ""], ["gl", ""]), "some first software WGPU_BACKEND=gl");
        assert_eq!(resolve(["vulkan", ""], ["gl", ""]), "some first software --backend vulkan");
        assert_eq!(resolve(["", "3"], ["", "pipe"]), "any #3 software --adapter 3");
        assert_eq!(resolve(["", ""], ["", "pipe"]), "any pipe software WGPU_ADAPTER_NAME=pipe");
        assert_eq!(resolve(["cpu", ""], ["vulkan", "pipe"]), "cpu");
        assert_eq!(resolve(["cpu", "0"], ["", ""]), "--adapter cannot be used with --backend cpu");
        assert!(resolve(["", ""], ["voodoo", ""]).contains("found `voodoo`"));
    }

    #[test]
    fn an_adapter_that_computes_wrong_results_is_refused_with_the_flag_that_forces_it() {
        let request = AdapterRequest { software: true, ..AdapterRequest::default() };
        let mut candidates = context::candidates(&request);
        let Some(first) = candidates.first_mut() else {
            eprintln!("SKIPPED: no adapter");
            return;
        };
        first.fault = Some("its driver (X 1) is wrong".into());
        let title = first.short_title();
        for candidate in &mut candidates {
            candidate.refused = Some("not asked for".into());
        }
        let error = context::best(candidates.clone(), &request).unwrap_err();
        let sentence = format!("adapter {title}: refused: its driver (X 1) is wrong");
        assert_eq!(error, Error::NoAdapter(sentence.clone()));
        let forced = with_flag(error, &candidates);
        assert_eq!(forced, Error::NoAdapter(format!("{sentence}; --force-adapter uses it anyway")));
        assert_eq!(with_flag(Error::Device("lost".into()), &candidates), Error::Device("lost".into()));
        let mut ui = Ui::new(true);
        candidates.iter().for_each(|candidate| warn(candidate, &mut ui));
        let warning = format!("adapter {title}: its driver (X 1) is wrong; used because of --force-adapter");
        assert_eq!(ui.warnings(), [warning]);
    }

    #[test]
    fn why_auto_chose_the_cpu_is_one_short_line() {
        let one = |title: &str, software, usable| Found { title: title.into(), software, usable };
        let pipes = || vec![one("0 llvmpipe (vulkan)", true, true), one("1 llvmpipe (gl)", true, true)];
        assert_eq!(no_hardware(&[]), "no adapter found");
        let line = "no hardware adapter; software adapters run if named: 0 llvmpipe (vulkan), 1 llvmpipe (gl)";
        assert_eq!(no_hardware(&pipes()), line);
        let mut all = pipes();
        all.push(one("2 V3D 4.2 (gl)", false, false));
        assert_eq!(no_hardware(&all), line.replace("no hardware", "no usable hardware"));
        assert_eq!(no_hardware(&all[2..]), "no usable adapter; `subquad adapters` says why");
    }
}
