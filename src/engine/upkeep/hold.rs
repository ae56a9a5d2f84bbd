//! Expired data is kept for a while when only the clock says that it expired: after a start, and after an operator accepted another time.
//!
//! Promises: for the first hour no expired visitor is swept and no upload is removed for its age. So a clock that is set right within
//! that time shows all of it again. The log, `/readyz` and the metrics say what is kept.

use crate::config::Config;
use crate::model::id::ClientCode;
use crate::model::profile::{Stored, StoredBytes};
use crate::model::seq::{Millis, Seq};
use crate::sync::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long expired data is kept.
pub(in crate::engine) const HELD: Duration = Duration::from_secs(3600);
/// How many clients the log names.
const CLIENTS_TOLD: usize = 20;

/// Until when expired data is kept.
#[derive(Debug, Default)]
pub(in crate::engine) struct Hold {
    /// In milliseconds of the steady time; 0 if nothing is kept.
    until: AtomicU64,
    /// How many visitors would have been swept, as far as they were counted.
    kept: AtomicU64,
}

impl Hold {
    /// Begins to keep expired data if `leap` is longer than a lifetime or a retention: then something may have expired only
    /// by the leap.
    pub(in crate::engine) fn begin_if_long(&self, leap: Duration, config: &Config, passed: Duration) -> bool {
        let lifetime = Duration::from_millis(config.lifetime_ms_min());
        let retention = Some(config.upkeep.retention_ms).filter(|kept| *kept > 0).map(Duration::from_millis);
        let long = leap > retention.map_or(lifetime, |retention| retention.min(lifetime));
        if long {
            let until = u64::try_from((passed + HELD).as_millis()).unwrap_or(u64::MAX);
            self.until.store(until, Ordering::Relaxed);
        }
        long
    }

    /// How much longer expired data is kept; none if it is not.
    pub(in crate::engine) fn left(&self, passed: Duration) -> Option<Duration> {
        let until = Duration::from_millis(self.until.load(Ordering::Relaxed));
        until.checked_sub(passed).filter(|left| !left.is_zero())
    }

    /// How many expired visitors are kept, as far as they were counted.
    pub(in crate::engine) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    pub(in crate::engine) fn set_kept(&self, visitors: u64) {
        self.kept.store(visitors, Ordering::Relaxed);
    }
}

/// How far the clock is past the last write.
pub(in crate::engine) fn since_last_write(last: Seq, now: Millis) -> Duration {
    let last = if last == Seq::ZERO { now } else { last.millis() };
    Duration::from_millis(now.0.saturating_sub(last.0))
}

/// The visitors who would be swept, by client: how many, and when they were last active.
#[derive(Debug, Default)]
pub(in crate::engine) struct WouldGo(BTreeMap<ClientCode, Visitors>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Visitors {
    count: u64,
    first: Millis,
    last: Millis,
}

impl WouldGo {
    /// Counts the profiles among these values.
    pub(in crate::engine) fn add(&mut self, client: &ClientCode, values: &[StoredBytes]) {
        for value in values {
            let Ok(Stored::Profile(profile)) = value.decode() else { continue };
            let at = profile.last_active;
            let none = Visitors { count: 0, first: at, last: at };
            let visitors = self.0.entry(client.clone()).or_insert(none);
            visitors.count += 1;
            (visitors.first, visitors.last) = (visitors.first.min(at), visitors.last.max(at));
        }
    }

    /// How many there are.
    pub(in crate::engine) fn count(&self) -> u64 {
        self.0.values().map(|visitors| visitors.count).sum()
    }

    /// Logs who would be swept.
    pub(in crate::engine) fn tell(&self, left: Option<Duration>) {
        let (minutes, all) = (left.unwrap_or_default().as_secs().div_ceil(60), self.count());
        for (client, visitors) in self.0.iter().take(CLIENTS_TOLD) {
            tracing::warn!(
                %client,
                visitors = visitors.count,
                last_active_from = %visitors.first.iso_8601(),
                last_active_to = %visitors.last.iso_8601(),
                minutes,
                "these visitors have expired by the clock, and will be swept in so many minutes: if the clock is wrong, stop \
                 the daemon and put it right before"
            );
        }
        if self.0.len() > CLIENTS_TOLD {
            tracing::warn!(
                clients = self.0.len(),
                visitors = all,
                "so many clients' visitors will be swept in all"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServeOptions;
    use crate::model::profile::Profile;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// Whether a leap of so many days has all stay, with uploads that are kept for so many.
    fn check(days: u32, retention_days: &str, held: bool) {
        let options = ServeOptions::default().with("retention_days", retention_days).unwrap();
        let (config, hold) = (Config::resolve(&options).unwrap(), Hold::default());
        assert_eq!(hold.begin_if_long(DAY * days, &config, DAY), held, "{days}");
        assert_eq!(hold.left(DAY).is_some(), held, "{days}");
        assert_eq!(hold.left(DAY + HELD), None, "{days}");
    }

    #[test]
    fn what_may_have_gone_meanwhile_stays_for_an_hour() {
        check(14, "30", false);
        check(15, "30", true);
        check(8, "7", true);
        check(7, "7", false);
        check(14, "0", false);
        check(15, "0", true);
        assert_eq!(Hold::default().left(Duration::ZERO), None);
    }

    #[test]
    fn who_would_go_is_counted_by_client() {
        let client = ClientCode::new("demo").unwrap();
        let profile = |at| Stored::Profile(Profile::born_at(Seq::from_parts(Millis(at), 0))).encode();
        let link = Stored::Tombstone { applied_seq: Seq::ZERO, erased: false }.encode();
        let mut would_go = WouldGo::default();
        would_go.add(&client, &[profile(7), link, profile(3), profile(5)]);
        let visitors = Visitors { count: 3, first: Millis(3), last: Millis(7) };
        assert_eq!((would_go.count(), would_go.0.get(&client)), (3, Some(&visitors)));
    }
}
