//! `whimbrel completion` and `whimbrel man`: both are made of the command line itself.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  whimbrel completion bash > ~/.local/share/bash-completion/completions/whimbrel\n  whimbrel completion zsh > ~/.zfunc/_whimbrel\n  whimbrel completion fish > ~/.config/fish/completions/whimbrel.fish"
)]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  whimbrel man | man -l -\n  whimbrel man --folder ~/.local/share/man/man1"
)]
pub(crate) struct Man {
    /// Write a page for each command into this folder
    #[arg(long)]
    folder: Option<PathBuf>,
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("help is UTF-8")
}

pub(crate) fn completion(completion: &Completion) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(completion.shell, &mut Cli::command(), "whimbrel", &mut script);
    output::print(&text(script)).map(|()| 0)
}

pub(crate) fn man(man: &Man) -> Result<u8, Failure> {
    let failed = |error| Failure::failed("The manual can't be written.").because(error);
    if let Some(folder) = &man.folder {
        std::fs::create_dir_all(folder).map_err(failed)?;
        clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
        return Ok(0);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(failed)?;
    output::print(&text(page)).map(|()| 0)
}
