//! `subquad model generate DIR`.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Instant;

use clap::{ArgMatches, Command};
use serde_json::json;

use super::{Runner, check_files, chunk_of, count, number, open, running};
use crate::catalog::flags::Flags;
use crate::cli::report::{self, Ui};
use crate::cli::{Outcome, args};
use crate::error::Error;
use crate::io;
use crate::model::sampling::{Sampler, Settings};
use crate::model::tokens::Tokenizer;

pub(super) fn command() -> Command {
    running(super::subcommand("generate", "Continue a text, token by token"))
        .arg(args::value("prompt").value_name("TEXT").help("Text to continue"))
        .arg(args::path("prompt-file").help("File with the text to continue; `-` is standard input"))
        .arg(
            args::value("tokens")
                .value_name("N")
                .required(true)
                .allow_negative_numbers(true)
                .help("Most tokens to add"),
        )
        .arg(
            args::value("temperature")
                .value_name("X")
                .allow_negative_numbers(true)
                .help("Logits are divided by it before a token is drawn [default: 0, the most likely token]"),
        )
        .arg(
            args::value("top-k")
                .value_name("K")
                .allow_negative_numbers(true)
                .help("Draw from the K most likely tokens [default: all]"),
        )
        .arg(
            args::value("top-p")
                .value_name("P")
                .allow_negative_numbers(true)
                .help("Draw from the most likely tokens that together have this probability [default: 1]"),
        )
        .arg(args::seed("Seed of the random numbers; the same seed gives the same text on the same backend"))
        .arg(super::chunk())
}

pub(super) fn generate(matches: &ArgMatches) -> Result<Outcome, Error> {
    let mut ui = Ui::new(args::is_on(matches, "quiet"));
    let settings = Settings {
        temperature: number(matches, "temperature")?.unwrap_or(0.0),
        top_k: count(matches, "top-k")?,
        top_p: number(matches, "top-p")?,
        seed: args::seed_of("model", matches)?,
    };
    // A setting that is out of its range is named as its flag.
    let flags = Flags::from_pairs(&["temperature", "top-k", "top-p"].map(|name| (name, "")));
    let mut sampler = Sampler::new(settings).map_err(|error| Error::Usage(flags.spell(error).to_string()))?;
    let wanted = count(matches, "tokens")?.unwrap_or(0);
    check_files(&["prompt-file"], &[], matches)?;
    let prompt = prompt(matches)?;
    let model = open(matches)?;
    model.check_lm("generate")?;
    let tokenizer = Tokenizer::of(&model)?;
    let tokens = tokenizer.encode(&prompt)?;
    let Some((last, before)) = tokens.split_last() else {
        return Err(Error::Usage("model: the prompt: expected a text of one byte or more, found none".into()));
    };
    if let Some(most) = model.max_len().filter(|most| tokens.len() + wanted > *most + 1) {
        let found = format!("a prompt of {} tokens and --tokens {wanted}", tokens.len());
        return Err(Error::setting(
            model.spec().family,
            "max_len",
            format!("at most the {most} learned positions"),
            found,
        ));
    }
    let chunk = chunk_of(matches, &model)?.unwrap_or(before.len().max(1));
    let runner = Runner::open(matches, &mut ui)?;
    let mut session = runner.session(&model)?;

    let start = Instant::now();
    let mut progress = ui.progress("reading the prompt");
    let mut done = 0;
    for chunk in before.chunks(chunk) {
        session.advance(chunk, false)?;
        done += chunk.len();
        progress.set(done as f64 / tokens.len() as f64);
    }
    drop(progress);
    let prefill = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let as_json = args::is_on(matches, "json");
    let mut writer = Writer { shown: 0, live: !as_json };
    let (mut next, mut added) = (*last, Vec::new());
    let text_of = |added: &[u32]| tokenizer.decode_after(&tokens, added);
    while added.len() < wanted {
        let Some(logits) = session.advance(&[next], true)? else { break };
        next = sampler.next(&logits.to_f32())?;
        if model.spec().ends.contains(&next) {
            break;
        }
        added.push(next);
        if !writer.show(&text_of(&added)?, added.len() == wanted)? {
            break;
        }
    }
    let text = text_of(&added)?;
    writer.show(&text, true)?;
    let decode = start.elapsed().as_secs_f64();
    if as_json {
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "model generate",
            "target": runner.target.to_string(),
            "text": String::from_utf8_lossy(&text),
            "tokens": added,
            "prompt_tokens": tokens.len(),
            "prefill_seconds": prefill,
            "decode_seconds": decode,
            "tokens_per_second": added.len() as f64 / decode,
            "warnings": ui.warnings(),
        }))?;
    } else {
        if std::io::stdout().is_terminal() {
            report::stdout("\n")?;
        }
        let rate = |count: usize, seconds: f64| if count == 0 { 0.0 } else { count as f64 / seconds };
        ui.note(&format!(
            "prompt: {} tokens, {:.0} tokens/s; text: {} tokens, {:.1} tokens/s",
            tokens.len(),
            rate(before.len(), prefill),
            added.len(),
            rate(added.len(), decode),
        ));
    }
    Ok(Outcome::Done)
}

fn prompt(matches: &ArgMatches) -> Result<Vec<u8>, Error> {
    match (args::word_of(matches, "prompt"), args::path_of(matches, "prompt-file")) {
        (Some(_), Some(_)) => Err(Error::Usage("model: --prompt and --prompt-file cannot be used together".into())),
        (None, None) => Err(Error::Usage("model: --prompt or --prompt-file is needed".into())),
        (Some(text), None) => Ok(text.as_bytes().to_vec()),
        (None, Some(path)) if io::is_dash(path) => {
            let mut bytes = Vec::new();
            let read = std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes);
            read.map_err(|e| Error::file("standard input", format!("cannot be read: {e}")))?;
            Ok(bytes)
        }
        (None, Some(path)) => {
            std::fs::read(path).map_err(|e| Error::file(path.to_path_buf(), format!("cannot be read: {e}")))
        }
    }
}

/// Writes a text as it grows.
struct Writer {
    /// Bytes written.
    shown: usize,
    /// Whether it is written at all before its end.
    live: bool,
}

impl Writer {
    /// Writes what is new, up to the last whole character unless this is the end. A terminal sees no characters that it obeys.
    /// Returns whether anybody still reads.
    fn show(&mut self, text: &[u8], ends: bool) -> Result<bool, Error> {
        if !self.live {
            return Ok(true);
        }
        let new = &text[self.shown.min(text.len())..];
        let whole = if ends { new.len() } else { whole_characters(new) };
        let new = &new[..whole];
        self.shown += whole;
        if std::io::stdout().is_terminal() {
            report::stdout(&String::from_utf8_lossy(new))?;
            return Ok(!report::closed());
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(new).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Error::file("standard output", error.to_string())),
        }
    }
}

/// Number of bytes before a character that is not yet complete. Tokenizers put U+FFFD in the place of such a one.
fn whole_characters(text: &[u8]) -> usize {
    match std::str::from_utf8(text) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Ok(text) => text.trim_end_matches(char::REPLACEMENT_CHARACTER).len(),
        Err(_) => text.len(),
    }
}
