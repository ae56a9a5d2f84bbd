//! The daemon's log lines on standard error, and its [metrics].
//!
//! Promises: each event is one line. A terminal obeys none of its control characters except the daemon's own colours.
//! The formatter alone would let line breaks and escape sequences through, so this module escapes all text from
//! outside; no id or path can forge a line. Logging never fails and never waits, whatever happens to standard error:
//! see [`writer`].

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::Subscriber;
use tracing::field::Field;
use tracing::subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::config::{LogFilter, LogFormat};

pub mod metrics;
pub mod process;
mod seldom;
mod writer;

pub use seldom::Seldom;
use writer::Lines;

/// How long the end of the process waits for the last log lines.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);

/// The log of this process.
static LOG: OnceLock<Lines> = OnceLock::new();

/// Waits for the last log lines when it is dropped, for at most a second.
#[derive(Debug)]
#[must_use = "keep it until the process ends: dropping it waits for the last lines"]
pub struct LastLines(());

impl Drop for LastLines {
    fn drop(&mut self) {
        if let Some(log) = LOG.get() {
            log.flush(LAST_LINES_MAX);
        }
    }
}

/// Sends events that pass the filter to standard error, in colour only on a terminal, and panics too. Fails if logging
/// is installed already.
pub fn install(filter: &LogFilter, format: LogFormat) -> io::Result<LastLines> {
    // Not through the standard library's handle, whose lock other users of standard error would wait for.
    let log = Lines::to(File::from(io::stderr().as_fd().try_clone_to_owned()?))?;
    let terminal = io::stderr().is_terminal();
    let log = LOG.get_or_init(|| log).clone();
    let installed = match format {
        LogFormat::Text => subscriber::set_global_default(lines(filter, terminal, move || log.clone())),
        LogFormat::Json => subscriber::set_global_default(objects(filter, move || log.clone())),
    };
    installed.map_err(io::Error::other)?;
    // The default hook writes to standard error itself and may block on it.
    std::panic::set_hook(Box::new(log_panic));
    Ok(LastLines(()))
}

/// A time for a field of the log: in milliseconds, to the microsecond. A whole number of 128 bits would be a text in JSON.
pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The number of log lines lost since the process started.
pub fn lines_lost() -> u64 {
    LOG.get().map_or(0, Lines::lost)
}

/// The callback for panics.
static ON_PANIC: OnceLock<Box<OnPanic>> = OnceLock::new();

type OnPanic = dyn Fn(Option<&str>) + Send + Sync;

/// Calls `report` with the thread's name whenever a thread panics, on that thread.
pub fn on_panic(report: impl Fn(Option<&str>) + Send + Sync + 'static) {
    drop(ON_PANIC.set(Box::new(report)));
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    if let Some(report) = ON_PANIC.get() {
        report(thread.name());
    }
    let thread = thread.name().unwrap_or("(without a name)");
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let text =
        payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let why = text.unwrap_or("(no message)");
    tracing::error!(thread, at, why, "a thread panicked");
}

/// The filter has been checked, so it parses. The fallback logs errors only.
fn env_filter(filter: &LogFilter) -> EnvFilter {
    EnvFilter::try_new(filter.as_str()).unwrap_or_else(|_| EnvFilter::new("error"))
}

/// One JSON object per line, for programs.
fn objects<W: Write + 'static>(
    filter: &LogFilter,
    writer: impl Fn() -> W + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .log_internal_errors(false)
        .with_env_filter(env_filter(filter))
        .with_writer(move || EscapedJson(writer()))
        .finish()
}

/// Escapes control characters that the JSON formatter leaves as they are.
struct EscapedJson<W>(W);

impl<W: Write> Write for EscapedJson<W> {
    /// Takes a whole line: the formatter writes each line at once.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut line = String::with_capacity(bytes.len());
        for c in String::from_utf8_lossy(bytes).chars() {
            if c != '\n' && is_obeyed(c) {
                // Writing to a string does not fail.
                write!(line, "\\u{:04x}", u32::from(c)).unwrap_or_default();
            } else {
                line.push(c);
            }
        }
        self.0.write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn lines<W: Write + 'static>(
    filter: &LogFilter,
    terminal: bool,
    writer: impl Fn() -> W + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(env_filter(filter))
        .with_writer(writer)
        .log_internal_errors(false)
        .fmt_fields(debug_fn(write_field).delimited(" "));
    // On a terminal the formatter decides about colours: it respects NO_COLOR.
    if terminal { lines.finish() } else { lines.with_ansi(false).finish() }
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(Escaped(writer), "{value:?}"),
        name => write!(Escaped(writer), "{name}={value:?}"),
    }
}

/// Escapes characters that break a line, move the cursor or change the direction of text.
struct Escaped<'a, 'b>(&'a mut Writer<'b>);

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_obeyed(c)) {
            let (plain, after) = rest.split_at(at);
            write!(self.0, "{plain}{}", c.escape_default())?;
            rest = after.strip_prefix(c).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::{Config, ServeOptions};

    fn logged(filter: &str, terminal: bool, events: impl FnOnce()) -> String {
        collected(filter, events, |filter, writer| Box::new(lines(filter, terminal, writer)))
    }

    type Log = Arc<Mutex<Vec<u8>>>;
    type Writer = Box<dyn Fn() -> Sink + Send + Sync>;

    fn collected(
        filter: &str,
        events: impl FnOnce(),
        subscriber: impl FnOnce(&LogFilter, Writer) -> Box<dyn Subscriber + Send + Sync>,
    ) -> String {
        let options = ServeOptions::default().with("log", filter).unwrap();
        let filter = Config::resolve(&options).unwrap().server.log;
        let log = Log::default();
        let sink = {
            let log = Arc::clone(&log);
            move || Sink(Arc::clone(&log))
        };
        tracing::subscriber::with_default(subscriber(&filter, Box::new(sink)), events);
        let log = log.lock().unwrap();
        String::from_utf8(log.clone()).unwrap()
    }

    struct Sink(Log);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_it_quotes() {
        let id = "a\nERROR forged\r\0\t\x1b[2Jé\u{202e}";
        let log = logged("info", false, || tracing::info!(%id, quoted = id, "hello {id}"));
        assert_eq!(log.matches('\n').count(), 1, "{log:?}");
        assert!(log.ends_with('\n'), "{log:?}");
        assert!(!log.trim_end().contains(is_obeyed), "{log:?}");
        assert!(log.contains(r"hello a\nERROR forged\r\u{0}\t\u{1b}[2Jé"), "{log:?}");
        assert!(log.contains(r"id=a\nERROR forged\r\u{0}\t\u{1b}[2Jé\u{202e} quoted="), "{log:?}");
    }

    #[test]
    fn json_is_one_object_a_line_whatever_it_quotes() {
        let id = "a\n{}\0\x1b[2J\u{9b}2Jé\u{202e}";
        let events = || tracing::info!(%id, count = 7, "hello {id}");
        let log = collected("info", events, |filter, writer| Box::new(objects(filter, writer)));
        assert!(log.ends_with('\n') && !log.trim_end().contains(is_obeyed), "{log:?}");
        let event: serde_json::Value = serde_json::from_str(&log).unwrap();
        assert_eq!((&event["id"], &event["count"], &event["level"]), (&id.into(), &7.into(), &"INFO".into()));
        assert_eq!(event["message"], format!("hello {id}"));
    }

    #[test]
    fn the_filter_decides_what_is_logged() {
        let events = || {
            tracing::debug!("quiet");
            tracing::warn!("loud");
        };
        assert!(logged("off", false, events).is_empty());
        let info = logged("info", false, events);
        assert!(info.contains("loud") && !info.contains("quiet"), "{info:?}");
        let debug = logged("error,profiled=debug", false, events);
        assert!(debug.contains("loud") && debug.contains("quiet"), "{debug:?}");
    }

    #[test]
    fn colours_are_for_terminals() {
        let event = || tracing::info!(id = %"\x1b[2J", "hello");
        assert!(!logged("info", false, event).contains('\x1b'));
        // With NO_COLOR a terminal gets no colours either. Text from outside is escaped in any case.
        let log = logged("info", true, event);
        assert!(log.ends_with("hello id=\\u{1b}[2J\n"), "{log:?}");
    }
}
