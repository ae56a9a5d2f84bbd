//! What the daemon says about itself while it runs: log lines on standard error, and [metrics].
//!
//! Promises: one event is one line, and a terminal obeys none of it but its colours. The formatter alone would let line
//! breaks through, and a field's escape sequences too; here all that is from outside is escaped, so that no id or path
//! can forge a line. Logging neither fails nor waits, whatever became of standard error: see [`writer`].

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing::field::Field;
use tracing::subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::config::{LogFilter, LogFormat};

pub mod metrics;
mod writer;

use writer::Lines;

/// How long the last lines may take to be written when the process ends.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);

/// Where this process logs to.
static LOG: OnceLock<Lines> = OnceLock::new();

/// Waits, when it is dropped, for the last lines; not for long.
#[derive(Debug)]
#[must_use = "once it is dropped the process may end: the last lines are not waited for after that"]
pub struct LastLines(());

impl Drop for LastLines {
    fn drop(&mut self) {
        if let Some(log) = LOG.get() {
            log.flush(LAST_LINES_MAX);
        }
    }
}

/// From here on, events that pass the filter go to standard error, in colour only on a terminal, and so do panics. An
/// error if events go somewhere already.
pub fn install(filter: &LogFilter, format: LogFormat) -> io::Result<LastLines> {
    // Not through the standard library's handle: whoever wrote to that, too, would wait with us.
    let log = Lines::to(File::from(io::stderr().as_fd().try_clone_to_owned()?))?;
    let terminal = io::stderr().is_terminal();
    let log = LOG.get_or_init(|| log).clone();
    let installed = match format {
        LogFormat::Text => subscriber::set_global_default(lines(filter, terminal, move || log.clone())),
        LogFormat::Json => subscriber::set_global_default(objects(filter, move || log.clone())),
    };
    installed.map_err(io::Error::other)?;
    // The one that is there writes to standard error, and waits as long as that takes.
    std::panic::set_hook(Box::new(log_panic));
    Ok(LastLines(()))
}

/// How many log lines were lost since the start of the process.
pub fn lines_lost() -> u64 {
    LOG.get().map_or(0, Lines::lost)
}

/// What is told the name of each thread that panics.
static ON_PANIC: OnceLock<Box<OnPanic>> = OnceLock::new();

type OnPanic = dyn Fn(Option<&str>) + Send + Sync;

/// From here on, `tell` is called with the name of each thread that panics, on that thread.
pub fn on_panic(tell: impl Fn(Option<&str>) + Send + Sync + 'static) {
    drop(ON_PANIC.set(Box::new(tell)));
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    if let Some(tell) = ON_PANIC.get() {
        tell(thread.name());
    }
    let thread = thread.name().unwrap_or("(without a name)");
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let text =
        payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let why = text.unwrap_or("(not said)");
    tracing::error!(thread, at, why, "a thread panicked");
}

/// A filter that has been checked can be read; should it not be, errors are the least that is needed.
fn env_filter(filter: &LogFilter) -> EnvFilter {
    EnvFilter::try_new(filter.as_str()).unwrap_or_else(|_| EnvFilter::new("error"))
}

/// One JSON object a line, for programs.
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

/// JSON escapes only the oldest of what a terminal obeys; here the rest is, too.
struct EscapedJson<W>(W);

impl<W: Write> Write for EscapedJson<W> {
    /// Takes a line whole: the formatter writes each at once.
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

/// A warning that somebody from outside may cause at will: said at most so often.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// At most once in this time.
    pub fn every(every: Duration) -> Self {
        Self { every, last: None, unsaid: 0 }
    }

    /// Whether to say it now; if so, how often it was not said since the last time.
    pub fn tell(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < self.every) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
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
    // On a terminal the formatter decides: it heeds NO_COLOR.
    if terminal { lines.finish() } else { lines.with_ansi(false).finish() }
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(Escaped(writer), "{value:?}"),
        name => write!(Escaped(writer), "{name}={value:?}"),
    }
}

/// Escapes what breaks a line, moves the cursor or turns the direction of text.
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
    fn what_may_be_caused_at_will_is_said_seldom() {
        let mut seldom = Seldom::every(Duration::from_secs(3600));
        assert_eq!([seldom.tell(), seldom.tell(), seldom.tell()], [Some(0), None, None]);
        seldom.every = Duration::ZERO;
        assert_eq!([seldom.tell(), seldom.tell()], [Some(2), Some(0)]);
    }

    #[test]
    fn colours_are_for_terminals() {
        let event = || tracing::info!(id = %"\x1b[2J", "hello");
        assert!(!logged("info", false, event).contains('\x1b'));
        // With NO_COLOR set there are none on a terminal either; what is from outside is escaped all the same.
        let log = logged("info", true, event);
        assert!(log.ends_with("hello id=\\u{1b}[2J\n"), "{log:?}");
    }
}
