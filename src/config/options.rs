//! The flags and variables of `serve`: made from the declarations, one for each setting that may be set so.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::declared::{Changes, Declared, SetIn};
use super::error::variable;
use super::flags::Flags;
use super::settings::SECTIONS;
use super::value::{DefaultText, Kind, Written};

/// The settings of `serve` as flags and variables give them.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeOptions {
    /// File with settings [default: profiled.toml, if it exists]
    #[arg(long, env = "PROFILED_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) flags: Flags,
}

impl ServeOptions {
    /// These options, with the file of settings at that path.
    pub fn of_file(path: impl Into<PathBuf>) -> Self {
        Self { config: Some(path.into()), ..Self::default() }
    }

    /// These options and one more: a setting by its key, as a flag would give it. An error says what is wrong with it.
    pub fn with(mut self, key: &str, text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        let Some(declared) = flags().find(|(_, declared)| declared.key == key).map(|(_, declared)| declared)
        else {
            return Err(format!("{key} is not a setting"));
        };
        (declared.check)(Written::flag(&text)).map_err(|wrong| wrong.what)?;
        self.flags.0.insert(declared.key, text);
        Ok(self)
    }
}

/// The settings that have a flag and a variable, each with its heading.
pub(super) fn flags() -> impl Iterator<Item = (&'static str, &'static Declared)> {
    let settings = SECTIONS.iter().flat_map(|it| it.settings.iter().map(|declared| (it.title, declared)));
    settings.filter(|(_, declared)| declared.set_in == SetIn::Anything)
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(flags().map(|(heading, declared)| argument(declared).help_heading(heading)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found = Self::default();
        found.update_from_arg_matches(matches)?;
        Ok(found)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (_, declared) in flags() {
            let values = matches.try_get_many::<String>(declared.key);
            let values = values.map_err(|e| clap::Error::raw(ErrorKind::UnknownArgument, e.to_string()))?;
            if let Some(values) = values {
                let values: Vec<&str> = values.map(String::as_str).collect();
                self.0.insert(declared.key, values.join(","));
            }
        }
        Ok(())
    }
}

/// A setting as a flag and a variable.
fn argument(declared: &'static Declared) -> Arg {
    let default = match (declared.default)() {
        DefaultText::Written(value) => value.trim_matches('"').to_owned(),
        DefaultText::Words { words, .. } => words.to_owned(),
    };
    let counts = match declared.changes {
        Changes::AtSighup => "after a SIGHUP",
        Changes::AtStart => "after a start",
    };
    let (text, takes) = (declared.text(), (declared.expected)());
    let argument = Arg::new(declared.key)
        .long(declared.key.replace('_', "-"))
        .env(variable(declared.key))
        .value_name(declared.value_name)
        .help(format!("{text} [default: {default}]"))
        .long_help(format!("{text}\nTakes {takes}. A new value counts {counts}. [default: {default}]"))
        .value_parser(|text: &str| {
            (declared.check)(Written::flag(text)).map(|()| text.to_owned()).map_err(|wrong| wrong.what)
        });
    match declared.kind {
        Kind::One => argument,
        Kind::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::List => argument.action(ArgAction::Append).value_delimiter(','),
    }
}
