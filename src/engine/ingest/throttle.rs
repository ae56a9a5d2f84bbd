//! How fast batches are folded in (R10): so many rows a second in the window that is set, and always after the site's calls,
//! which wait for the same disk and the same cores.
//!
//! Promises: however fast the site calls, folding has at least a hundredth of the time, so no batch starves, and more of it
//! the more batches are pending, for each is in the way of every lookup and write; a rate is
//! kept to over any time longer than [`BURST`]; what changes by itself or by a `SIGHUP` (the window, the rate) counts
//! within [`LOOK_AGAIN`]. Nothing here changes what a lookup shows or what becomes of a row: a row that is not folded in
//! yet is folded in by whoever looks.

use std::num::NonZeroU32;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was not used of the rate is kept for so long: waits end a little late, and that must not make it slower.
const BURST: Duration = Duration::from_millis(50);
/// How long a wait goes on before it is looked whether there is still a reason for it.
pub(in crate::engine) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// For each moment that folding took, it gives way to the site's calls for so many at most, if one batch is pending; for half
/// as many if two are, and so on.
const GIVE_WAY_FACTOR: u32 = 99;

/// The pace of all who fold.
#[derive(Debug, Default)]
pub(in crate::engine) struct Pace {
    throttle: Mutex<Throttle>,
    /// Site calls that wait for their answers.
    waiting: Mutex<usize>,
    answered: Condvar,
}

impl Pace {
    /// How long it is until the next step may begin, at this rate: none, as fast as it goes.
    pub(in crate::engine) fn until_next(&self, rate: Option<NonZeroU32>, now: Instant) -> Duration {
        self.throttle().until_next(rate, now)
    }

    /// A step has folded so many rows.
    pub(in crate::engine) fn folded(&self, rows: u64, now: Instant) {
        self.throttle().folded(rows, now);
    }

    /// A site call waits, until what this gives is dropped.
    pub(in crate::engine) fn site_call(&self) -> SiteCallWaits<'_> {
        *self.waiting() += 1;
        SiteCallWaits(self)
    }

    /// Waits while a site call does; not for ever, for folding that `took` so long, while so many batches are pending, gets
    /// its share. Gives how long it was.
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

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A site call that waits.
pub(in crate::engine) struct SiteCallWaits<'p>(&'p Pace);

impl Drop for SiteCallWaits<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        *waiting = waiting.saturating_sub(1);
        if *waiting == 0 {
            self.0.answered.notify_all();
        }
    }
}

/// So many rows a second, and when the next are due.
#[derive(Debug, Default)]
struct Throttle {
    rate: Option<NonZeroU32>,
    due: Option<Instant>,
}

impl Throttle {
    fn until_next(&mut self, rate: Option<NonZeroU32>, now: Instant) -> Duration {
        if rate != self.rate {
            // What was folded at another rate is no debt at this one.
            *self = Self { rate, due: None };
        }
        self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    fn folded(&mut self, rows: u64, now: Instant) {
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

    /// How many rows are folded in ten seconds by steps of `rows` that take `step_us`, each wait ending `late_us` late.
    fn in_ten_seconds(rate: u32, rows: u64, step_us: u64, late_us: u64) -> u64 {
        let (mut throttle, begin) = (Throttle::default(), Instant::now());
        let (mut now, mut folded) = (begin, 0);
        while now < begin + Duration::from_secs(10) {
            let wait = throttle.until_next(NonZeroU32::new(rate), now);
            if !wait.is_zero() {
                now += wait + Duration::from_micros(late_us);
                continue;
            }
            now += Duration::from_micros(step_us);
            throttle.folded(rows, now);
            folded += rows;
        }
        folded
    }

    #[test]
    fn a_rate_is_kept_whatever_the_steps() {
        #[track_caller]
        fn check(rate: u32, rows: u64, step_us: u64, late_us: u64) {
            let (folded, all) = (in_ten_seconds(rate, rows, step_us, late_us), u64::from(rate) * 10);
            let burst = u64::from(rate) / 20;
            assert!(folded <= all + burst + 2 * rows, "{folded} of {all}");
            assert!(folded + all / 50 + 2 * rows >= all, "{folded} of {all}");
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
    fn another_rate_forgets_what_was_owed_at_the_last() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let rate = NonZeroU32::new;
        assert_eq!(throttle.until_next(rate(1), now), Duration::ZERO);
        throttle.folded(128, now);
        assert_eq!(throttle.until_next(rate(1), now), Duration::from_secs(128));
        assert_eq!(throttle.until_next(rate(1_000), now), Duration::ZERO);
        throttle.folded(128, now);
        assert_eq!(throttle.until_next(None, now), Duration::ZERO);
        throttle.folded(128, now);
        assert_eq!(throttle.until_next(None, now), Duration::ZERO);
    }

    #[test]
    fn a_step_waits_for_a_site_call_but_not_for_ever() {
        let pace = Arc::new(Pace::default());
        assert_eq!(pace.give_way(Duration::from_secs(1), 1), Duration::ZERO, "nobody waits");
        let call = pace.site_call();
        let share = Duration::from_millis(1);
        let waited = pace.give_way(Duration::from_micros(10), 1);
        assert!(waited >= Duration::from_micros(990) && waited < LOOK_AGAIN / 2, "{waited:?}");
        assert!(pace.give_way(share, 1) >= share * 99);
        let waited = pace.give_way(share, 33);
        assert!(waited >= share * 3 && waited < share * 50, "{waited:?}, with 33 pending");
        let folding = {
            let pace = Arc::clone(&pace);
            std::thread::spawn(move || while pace.give_way(Duration::from_secs(1), 1) >= LOOK_AGAIN {})
        };
        drop(call);
        folding.join().unwrap();
        assert_eq!(*pace.waiting(), 0);
    }
}
