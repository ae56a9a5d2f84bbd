//! What a command prints: lines, tables, JSON, errors and spinners.
//!
//! Promises: text from outside never commands the terminal; a reader that stops reading neither fails nor blocks a command
//! that must go on.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::mpsc;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;

use super::error::CliError;

/// How wide a line is where there is no terminal, or one that does not know its width.
const WIDTH: u16 = 80;
/// The longest time that the start or the end of the process waits for a line to be written.
const SAID_MAX: Duration = Duration::from_secs(1);

pub(super) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| CliError::Failed(format!("the answer cannot be printed as JSON: {e}")))?;
    say(text);
    Ok(())
}

/// Prints a line on standard output. If nobody reads it any more, the command goes on.
pub(super) fn say(line: impl fmt::Display) {
    writeln!(io::stdout(), "{line}").unwrap_or_default();
}

/// Does the same, but waits at most [`SAID_MAX`] for a reader that does not read.
pub(super) fn say_in_time(line: impl fmt::Display) {
    let line = line.to_string();
    in_time(move || say(line));
}

/// Prints what went wrong on standard error. Waits at most [`SAID_MAX`] for a reader that does not read.
pub(super) fn complain(line: impl fmt::Display) {
    let line = line.to_string();
    in_time(move || writeln!(io::stderr(), "profiled: {line}").unwrap_or_default());
}

/// Writes on a thread of its own, and abandons the thread if it blocks.
pub(super) fn in_time(write: impl FnOnce() + Send + 'static) {
    let (done, written) = mpsc::channel();
    let thread = std::thread::Builder::new().name("say".into()).spawn(move || {
        write();
        // The caller may have stopped waiting.
        done.send(()).unwrap_or_default();
    });
    if thread.is_ok() {
        written.recv_timeout(SAID_MAX).unwrap_or_default();
    }
}

/// Text from outside, safe for a terminal: control characters are escaped.
pub(super) fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            // Writing to a string does not fail.
            write!(safe, "{}", c.escape_default()).unwrap_or_default();
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A share from 0 to 1 in per cent, to the nearest tenth.
pub(super) fn per_cent(share: f64) -> String {
    format!("{:.1}%", (share * 1000.0).round() / 10.0)
}

/// The first so many characters of a text.
pub(super) fn shortened(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A spinner on the terminal, until it is dropped, for work of unknown length.
pub(super) struct GoesOn(ProgressBar);

impl GoesOn {
    pub(super) fn doing(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for GoesOn {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A table, as all commands print it.
pub(super) fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(comfy_table::ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    table
}

/// Columns without lines between them. No cell is broken: an id is copied whole, also where the line is too long for the
/// terminal.
pub(super) fn columns(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(comfy_table::ContentArrangement::Disabled)
        .set_header(header.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Columns that fit the terminal, or 80 characters where there is none: these are broken where they must be, and all others stay whole.
pub(super) fn fitting_columns(header: &[&str], broken: &[usize]) -> comfy_table::Table {
    let mut table = columns(header);
    let width = table.width().filter(|width| *width > 0).unwrap_or(WIDTH);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic).set_width(width);
    for (number, column) in table.column_iter_mut().enumerate() {
        if !broken.contains(&number) {
            column.set_constraint(comfy_table::ColumnConstraint::ContentWidth);
        }
    }
    table
}

/// A time as an answer has it, to the second and in the width of a column.
pub(super) fn short_time(iso: &str) -> String {
    match iso.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%e %b %H:%M:%S").to_string().trim_start().to_owned(),
        Err(_) => shown(iso),
    }
}

/// A time that may be years ago, to the minute and in the width of a column.
pub(super) fn short_date(iso: &str) -> String {
    match iso.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => shown(iso),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_does_not_command_the_terminal() {
        assert_eq!(shown("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(shown("小明 🌸 ليلى"), "小明 🌸 ليلى");
    }

    #[test]
    fn columns_break_nothing_and_times_are_short() {
        let mut lines = columns(&["id", "n"]);
        lines.add_row(["x".repeat(200), "1".into()]);
        assert_eq!(lines.trim_fmt().lines().count(), 2);
        let mut lines = fitting_columns(&["id", "value"], &[1]);
        lines.add_row(["demo-1701473848678-10000000".into(), "x".repeat(200)]);
        let text = lines.trim_fmt();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("demo-1701473848678-10000000") && text.matches('x').count() == 200, "{text}");
        assert_eq!(short_time("2026-11-07T17:02:11.123Z"), "7 Nov 17:02:11");
        assert_eq!(short_date("2026-11-07T17:02:11.123Z"), "2026-11-07 17:02");
        assert_eq!(short_time("soon\u{7}"), "soon\\u{7}");
    }
}
