//! `subquad completions SHELL`.

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::{Outcome, args, report};
use crate::error::Error;

pub(super) fn command() -> Command {
    Command::new("completions")
        .about("Print a completion script for a shell")
        .after_help("Example: subquad completions bash > ~/.local/share/bash-completion/completions/subquad")
        .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)))
}

pub(super) fn completions(matches: &ArgMatches) -> Result<Outcome, Error> {
    let Some(shell) = matches.get_one::<Shell>("shell") else {
        return Err(Error::Usage("completions: no shell given".into()));
    };
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut args::command(), "subquad", &mut script);
    report::stdout(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}
