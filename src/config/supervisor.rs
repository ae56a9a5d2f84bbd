//! What a supervisor such as systemd says in the environment.

use std::ffi::OsString;
use std::time::Duration;

/// Where a supervisor wants reports of the daemon, and how often: what systemd sets for a service with `Type=notify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervisor {
    /// A datagram socket: a path, or a name that begins with `@`.
    pub socket: OsString,
    /// The supervisor ends the daemon if it hears nothing for this long; none: it never does.
    pub watchdog: Option<Duration>,
}

impl Supervisor {
    /// The supervisor that started this process, if one did.
    #[expect(clippy::disallowed_methods, reason = "only src/config reads the environment")]
    pub fn of_this_process() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        let (period, process) = (std::env::var("WATCHDOG_USEC").ok(), std::env::var("WATCHDOG_PID").ok());
        let watchdog = watchdog(period.as_deref(), process.as_deref(), std::process::id());
        Some(Self { socket, watchdog })
    }
}

/// The period, if it is meant for this process: the variables may be inherited from its parent.
fn watchdog(period_us: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
    let meant = process.is_none_or(|process| process.parse() == Ok(own));
    let period = period_us?.parse().ok().filter(|period| *period > 0)?;
    meant.then_some(Duration::from_micros(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_heard_only_by_the_process_it_is_meant_for() {
        let check = |period: Option<&str>, process: Option<&str>, expected: Option<u64>| {
            let found = watchdog(period, process, 7);
            assert_eq!(found, expected.map(Duration::from_secs), "{period:?} {process:?}");
        };
        check(Some("30000000"), Some("7"), Some(30));
        check(Some("30000000"), None, Some(30));
        check(Some("30000000"), Some("8"), None);
        check(Some("30000000"), Some("x"), None);
        check(Some("0"), Some("7"), None);
        check(Some("soon"), Some("7"), None);
        check(None, Some("7"), None);
    }
}
