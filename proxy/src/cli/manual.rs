//! `landbridge completions` and `landbridge man`: what shells and manuals know about the command line, from its definition.

use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, Exit};

/// The name of the program, whatever it was called as.
const NAME: &str = "landbridge";

/// `landbridge completions SHELL`: to stdout, for the shell to read.
pub(super) fn completions(shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
    written(io::stdout().write_all(&script), "the completions")
}

/// `landbridge man`: its own page to stdout, or a page for it and for each of its verbs to a folder.
pub(super) fn man(folder: Option<&Path>) -> Exit {
    let command = Arguments::command().name(NAME);
    match folder {
        Some(folder) => {
            let made = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
            written(made, &folder.display().to_string())
        }
        None => written(page(command), "the page"),
    }
}

fn page(command: Command) -> io::Result<()> {
    // As `generate_to` does it, so that both are the same.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    clap_mangen::Man::new(command).render(&mut io::stdout())
}

fn written(result: io::Result<()>, what: &str) -> Exit {
    match result {
        Ok(()) => Exit::Good,
        Err(error) => {
            eprintln!("cannot write {what}: {error}");
            Exit::Failed
        }
    }
}
