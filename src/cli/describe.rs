//! `profiled completions SHELL` and `profiled man`: completions for shells, and man pages.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::error::CliError;

const NAME: &str = "profiled";

/// Print the completions of commands and flags for a shell
///
/// For bash, for example: profiled completions bash > /etc/bash_completion.d/profiled
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Print a man page, or write the pages of all commands into a folder
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The command whose page to print, such as: batch post [default: the whole program]
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write all pages into this folder instead
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    folder: Option<PathBuf>,
}

pub(super) fn completions(command: &Completions, mut program: Command) -> Result<(), CliError> {
    let mut text = vec![];
    clap_complete::generate(command.shell, &mut program, NAME, &mut text);
    print(&text)
}

pub(super) fn man(command: &Man, mut program: Command) -> Result<(), CliError> {
    // Gives each subcommand its full name.
    program.build();
    let Some(folder) = &command.folder else { return print(&page(named(&program, &command.command)?)?) };
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    write_pages(folder, &program, NAME)
}

fn named<'c>(program: &'c Command, path: &[String]) -> Result<&'c Command, CliError> {
    path.iter().try_fold(program, |at, name| {
        at.find_subcommand(name).ok_or_else(|| {
            let known: Vec<&str> = at.get_subcommands().map(Command::get_name).collect();
            CliError::Usage(format!(
                "{name:?} is not a command of {}; the commands are {}",
                at.get_name(),
                known.join(", ")
            ))
        })
    })
}

fn write_pages(folder: &Path, command: &Command, name: &str) -> Result<(), CliError> {
    let path = folder.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?).map_err(|error| unwritable(&path, &error))?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        write_pages(folder, sub, &format!("{name}-{}", sub.get_name()))?;
    }
    Ok(())
}

fn page(command: &Command) -> Result<Vec<u8>, CliError> {
    let mut text = vec![];
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut text);
    rendered.map_err(|error| CliError::Failed(format!("the man page cannot be written: {error}")))?;
    Ok(text)
}

fn unwritable(path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("{} cannot be written: {error}", path.display()))
}

fn print(text: &[u8]) -> Result<(), CliError> {
    match io::stdout().write_all(text) {
        // The reader may have stopped reading.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}
