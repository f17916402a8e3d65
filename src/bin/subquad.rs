//! The command `subquad`.

use std::process::ExitCode;

fn main() -> ExitCode {
    subquad::cli::main(std::env::args_os())
}
