//! How fast rows are applied (R10): so many a second within the configured window, and always after the site's calls, which need
//! the same disk and the same cores.
//!
//! Promises:
//! - However many calls the site makes, applying gets at least a hundredth of the time, so no batch starves. It gets more the
//!   more batches are pending, for each of them slows every lookup and write down.
//! - A rate holds over any time longer than [`BURST`].
//! - A new window or rate counts within [`LOOK_AGAIN`].
//! - Nothing here changes what a lookup shows or a row's outcome. Whoever looks a visitor up applies its pending rows.

use crate::sync::unpoisoned;
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long an unused part of the rate is kept. Waits end a little late, and that must not lower the rate.
const BURST: Duration = Duration::from_millis(50);
/// How long a wait lasts before the thread looks whether there is still a reason for it.
pub(in crate::engine) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// For each moment that applying took, it makes way for the site's calls for at most this many, if one batch is pending; for half
/// as many if two are, and so on.
const GIVE_WAY_FACTOR: u32 = 99;

/// The throttle of the apply thread and the second writer.
#[derive(Debug, Default)]
pub(in crate::engine) struct Throttle {
    rate: Mutex<Rate>,
    /// How many site calls wait for their answers.
    waiting: Mutex<usize>,
    /// Notified when none does any more.
    answered: Condvar,
}

impl Throttle {
    /// How long it is until the next step may begin, at this rate; without a rate it may begin at once.
    pub(in crate::engine) fn until_next(&self, rate: Option<NonZeroU32>, now: Instant) -> Duration {
        self.rate().until_next(rate, now)
    }

    /// Notes that a step has applied so many rows.
    pub(in crate::engine) fn applied(&self, rows: u64, now: Instant) {
        self.rate().applied(rows, now);
    }

    /// Notes that a site call waits, until the guard is dropped.
    pub(in crate::engine) fn site_call(self: &Arc<Self>) -> SiteCallWaits {
        *self.waiting() += 1;
        SiteCallWaits(Arc::clone(self))
    }

    /// Waits while a site call does. The wait is bounded, so that applying gets its share: the longer its last step `took`, and
    /// the fewer batches are pending, the longer. Gives how long it waited.
    pub(in crate::engine) fn give_way(&self, took: Duration, pending: usize) -> Duration {
        let calls = self.waiting();
        if *calls == 0 {
            return Duration::ZERO;
        }
        let began = Instant::now();
        let pending = u32::try_from(pending.max(1)).unwrap_or(u32::MAX);
        let longest = (took.saturating_mul(GIVE_WAY_FACTOR) / pending).min(LOOK_AGAIN);
        let waited = self.answered.wait_timeout_while(calls, longest, |waiting| *waiting > 0);
        drop(waited);
        began.elapsed()
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        unpoisoned(self.rate.lock())
    }

    fn waiting(&self) -> MutexGuard<'_, usize> {
        unpoisoned(self.waiting.lock())
    }
}

/// A site call that waits for its answer.
pub(in crate::engine) struct SiteCallWaits(Arc<Throttle>);

impl Drop for SiteCallWaits {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        *waiting = waiting.saturating_sub(1);
        if *waiting == 0 {
            self.0.answered.notify_all();
        }
    }
}

/// So many rows a second.
#[derive(Debug, Default)]
struct Rate {
    rate: Option<NonZeroU32>,
    /// When the next rows may be applied.
    due: Option<Instant>,
}

impl Rate {
    fn until_next(&mut self, rate: Option<NonZeroU32>, now: Instant) -> Duration {
        if rate != self.rate {
            // Rows that were applied at another rate are no debt at this one.
            *self = Self { rate, due: None };
        }
        self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    fn applied(&mut self, rows: u64, now: Instant) {
        let Some(rate) = self.rate else { return };
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let time = Duration::from_secs(1) * rows / rate.get();
        self.due = Some(self.due.map_or(now, |due| due.max(earliest)) + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// How many rows are applied in ten seconds by steps of `rows` that take `step_us`, if each wait ends `late_us` late.
    fn in_ten_seconds(rate: u32, rows: u64, step_us: u64, late_us: u64) -> u64 {
        let (mut limit, begin) = (Rate::default(), Instant::now());
        let (mut now, mut applied) = (begin, 0);
        while now < begin + Duration::from_secs(10) {
            let wait = limit.until_next(NonZeroU32::new(rate), now);
            if !wait.is_zero() {
                now += wait + Duration::from_micros(late_us);
                continue;
            }
            now += Duration::from_micros(step_us);
            limit.applied(rows, now);
            applied += rows;
        }
        applied
    }

    #[test]
    fn a_rate_is_kept_whatever_the_steps() {
        #[track_caller]
        fn check(rate: u32, rows: u64, step_us: u64, late_us: u64) {
            let (applied, all) = (in_ten_seconds(rate, rows, step_us, late_us), u64::from(rate) * 10);
            let burst = u64::from(rate) / 20;
            assert!(applied <= all + burst + 2 * rows, "{applied} of {all}");
            assert!(applied + all / 50 + 2 * rows >= all, "{applied} of {all}");
        }
        check(20_000, 128, 1_000, 0);
        check(20_000, 128, 1_000, 1_500);
        check(20_000, 1, 10, 60);
        check(1_000, 128, 1_000, 10_000);
        check(100, 128, 1_000, 1_000);
        check(60_000, 128, 2_000, 300);
        check(20_000, 5_000, 30_000, 1_000);
    }

    #[test]
    fn a_new_rate_forgets_what_was_owed_at_the_old_one() {
        let (mut limit, now) = (Rate::default(), Instant::now());
        let rate = NonZeroU32::new;
        assert_eq!(limit.until_next(rate(1), now), Duration::ZERO);
        limit.applied(128, now);
        assert_eq!(limit.until_next(rate(1), now), Duration::from_secs(128));
        assert_eq!(limit.until_next(rate(1_000), now), Duration::ZERO);
        limit.applied(128, now);
        assert_eq!(limit.until_next(None, now), Duration::ZERO);
        limit.applied(128, now);
        assert_eq!(limit.until_next(None, now), Duration::ZERO);
    }

    #[test]
    fn a_step_waits_for_a_site_call_but_not_for_ever() {
        let throttle = Arc::new(Throttle::default());
        assert_eq!(throttle.give_way(Duration::from_secs(1), 1), Duration::ZERO, "nobody waits");
        let call = throttle.site_call();
        let share = Duration::from_millis(1);
        let waited = throttle.give_way(Duration::from_micros(10), 1);
        assert!(waited >= Duration::from_micros(990) && waited < LOOK_AGAIN / 2, "{waited:?}");
        assert!(throttle.give_way(share, 1) >= share * 99);
        let waited = throttle.give_way(share, 33);
        assert!(waited >= share * 3 && waited < share * 50, "{waited:?}, with 33 pending");
        let applying = {
            let throttle = Arc::clone(&throttle);
            std::thread::spawn(move || while throttle.give_way(Duration::from_secs(1), 1) >= LOOK_AGAIN {})
        };
        drop(call);
        applying.join().unwrap();
        assert_eq!(*throttle.waiting(), 0);
    }
}
