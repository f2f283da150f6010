//! `whimbrel-lab`: the lab for people.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
