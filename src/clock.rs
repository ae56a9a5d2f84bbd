//! The current time, and how far the machine's clock is trusted (R3, R11).
//!
//! ```text
//! wall    the time of the machine's clock; anybody may set it
//! steady  milliseconds that passed, also while the machine was suspended; nobody can set it
//! offset  wall - steady: constant as long as nobody sets the wall clock
//! ```
//!
//! Promises: between two readings the time moves ahead by at most the time that passed plus a bound, however the wall
//! clock is set. If the clock jumps further, the time continues from the last good reading. One warning reports that,
//! and it ends when the clock is right again or an operator accepts it. The time follows a clock that drifts or is
//! slewed by up to a thousandth. It also follows a clock that is set back; seqs do not go back with it. A reading takes
//! no lock, so a paused thread blocks nobody.
//!
//! At its start the daemon has nothing to compare the clock with, so it trusts the clock
//! ([`GuardedClock::start_after`]). A clock that is certainly behind, because the journal has later writes, is trusted
//! until it has caught up: a machine without a battery starts in 1970 and gets the right time a moment later.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::model::seq::{Clock, Millis, SystemClock};

/// The start of 2025, when this program did not exist yet. A clock that reads less has not been set.
const NEVER_BEFORE: Millis = Millis(1_735_689_600_000);
/// The offset may change by a thousandth of the time that passes: twice the fastest slewing.
const CREEP: u64 = 1000;
/// No offset is known yet.
const NONE: i64 = i64::MIN;

/// A source of elapsed time.
pub trait Steady: Send + Sync {
    /// Milliseconds since an arbitrary moment. They also count while the machine is suspended, and nobody can set them.
    fn passed_ms(&self) -> u64;
}

/// The time since the machine started.
#[derive(Debug, Clone, Copy, Default)]
pub struct SinceBoot;

impl Steady for SinceBoot {
    fn passed_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
        seconds.unwrap_or_default() * 1000 + nanos.unwrap_or_default() / 1_000_000
    }
}

/// A clock that ignores jumps ahead.
pub struct GuardedClock {
    wall: Arc<dyn Clock>,
    steady: Arc<dyn Steady>,
    /// How far the clock may jump ahead, in milliseconds; `u64::MAX` for no bound.
    ahead_max_ms: AtomicU64,
    /// A clock below this time is certainly behind, in milliseconds since the epoch.
    behind_below: AtomicU64,
    /// The offset to compare readings with.
    offset: AtomicI64,
    /// When `offset` last changed, in steady milliseconds.
    crept_at_ms: AtomicU64,
    /// The offset of the last trusted reading.
    good: AtomicI64,
    /// How far the clock is too far ahead, in milliseconds; 0 while it is trusted.
    ahead_ms: AtomicU64,
}

impl GuardedClock {
    /// A guard for the clock `wall`, which may jump ahead of `steady` by `ahead_max`; `None` for no bound.
    pub fn new(wall: Arc<dyn Clock>, steady: Arc<dyn Steady>, ahead_max: Option<Duration>) -> Self {
        let clock = Self {
            wall,
            steady,
            ahead_max_ms: AtomicU64::new(u64::MAX),
            behind_below: AtomicU64::new(NEVER_BEFORE.0),
            offset: AtomicI64::new(NONE),
            crept_at_ms: AtomicU64::new(0),
            good: AtomicI64::new(0),
            ahead_ms: AtomicU64::new(0),
        };
        clock.set_ahead_max(ahead_max);
        clock
    }

    /// A guard for the machine's clock.
    pub fn of_this_machine(ahead_max: Option<Duration>) -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(SinceBoot), ahead_max)
    }

    /// A guard that trusts every reading: for a test that sets the clock, or for a short command.
    pub fn believing(wall: Arc<dyn Clock>) -> Self {
        Self::new(wall, Arc::new(SinceBoot), None)
    }

    /// The current time.
    pub fn now(&self) -> Millis {
        // In this order, because a thread that is paused in between then sees a slow clock, and never a fast one.
        let wall = self.wall.now();
        let passed_ms = self.steady.passed_ms();
        let offset = signed(wall.0).saturating_sub(signed(passed_ms));
        let held_against = self.offset.load(Ordering::Acquire);
        if held_against != NONE {
            let ahead = u64::try_from(offset.saturating_sub(held_against)).unwrap_or(0);
            let most = self.ahead_max_ms.load(Ordering::Relaxed);
            if ahead > most {
                if self.ahead_ms.swap(ahead, Ordering::Relaxed) == 0 {
                    tracing::warn!(
                        ahead_seconds = ahead / 1000,
                        clock = %wall.iso_8601(),
                        "the machine's clock has jumped ahead, so the daemon ignores it and counts time on from the last good reading. \
                         Correct the clock; or, if it is right now, accept it with `profiled reload`, a SIGHUP or a restart"
                    );
                }
                let good = self.good.load(Ordering::Relaxed).saturating_add(signed(passed_ms));
                return Millis(u64::try_from(good).unwrap_or(0));
            }
            if most == u64::MAX {
                // A bound that is set later counts from the clock's time then.
                self.offset.store(offset, Ordering::Release);
            }
            self.creep(held_against, offset, passed_ms);
        } else if wall.0 >= self.behind_below.load(Ordering::Relaxed) {
            self.crept_at_ms.store(passed_ms, Ordering::Relaxed);
            self.offset.store(offset, Ordering::Release);
        }
        if self.ahead_ms.load(Ordering::Relaxed) > 0 && self.ahead_ms.swap(0, Ordering::Relaxed) > 0 {
            tracing::warn!(clock = %wall.iso_8601(), "the machine's clock is right again, and the daemon uses it");
        }
        if self.good.load(Ordering::Relaxed) != offset {
            self.good.store(offset, Ordering::Relaxed);
        }
        wall
    }

    /// Sets how far the clock may jump ahead; `None` for no bound.
    pub fn set_ahead_max(&self, most: Option<Duration>) {
        let most = most.map_or(u64::MAX, |most| u64::try_from(most.as_millis()).unwrap_or(u64::MAX));
        self.ahead_max_ms.store(most, Ordering::Relaxed);
    }

    /// Starts a process whose last write was at `last`. The clock's reading now is trusted, and so are its readings
    /// until it has caught up with `last`.
    pub fn start_after(&self, last: Millis) {
        self.behind_below.store(last.max(NEVER_BEFORE).0, Ordering::Relaxed);
        self.offset.store(NONE, Ordering::Release);
    }

    /// Trusts the clock as it is now. Returns how far it was too far ahead; `None` if it was trusted already.
    pub fn accept(&self) -> Option<Duration> {
        self.now();
        let ahead = self.ahead_by()?;
        self.offset.store(NONE, Ordering::Release);
        self.now();
        Some(ahead)
    }

    /// How far the clock was too far ahead at its last reading; `None` if it is trusted.
    pub fn ahead_by(&self) -> Option<Duration> {
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        (ahead > 0).then(|| Duration::from_millis(ahead))
    }

    /// The time since an arbitrary moment, independent of the wall clock.
    pub fn passed(&self) -> Duration {
        Duration::from_millis(self.steady.passed_ms())
    }

    /// Follows a trusted clock that drifts.
    fn creep(&self, held_against: i64, offset: i64, passed_ms: u64) {
        let last = self.crept_at_ms.load(Ordering::Relaxed);
        let step = passed_ms.saturating_sub(last) / CREEP;
        let at = Ordering::Relaxed;
        if step > 0 && self.crept_at_ms.compare_exchange(last, passed_ms, at, at).is_ok() {
            let step = signed(step);
            let by = offset.saturating_sub(held_against).clamp(-step, step);
            // An operator may have accepted another time meanwhile.
            self.offset
                .compare_exchange(held_against, held_against + by, Ordering::Release, at)
                .unwrap_or_default();
        }
    }
}

impl Clock for GuardedClock {
    fn now(&self) -> Millis {
        self.now()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wall clock or a steady one that a test sets.
    #[derive(Default)]
    struct Set(AtomicU64);

    impl Clock for Set {
        fn now(&self) -> Millis {
            Millis(self.0.load(Ordering::Relaxed))
        }
    }

    impl Steady for Set {
        fn passed_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    const SECOND: u64 = 1000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    /// The time at which the test's daemon starts.
    const START: u64 = NEVER_BEFORE.0 + 400 * DAY;

    struct Watch {
        wall: Arc<Set>,
        steady: Arc<Set>,
        clock: GuardedClock,
    }

    /// A clock that reads `START`, an hour after boot. It may jump ahead by ten minutes.
    fn watch(last_write: u64) -> Watch {
        let (wall, steady) = (Arc::new(Set::default()), Arc::new(Set::default()));
        wall.0.store(START, Ordering::Relaxed);
        steady.0.store(HOUR, Ordering::Relaxed);
        let most = Some(Duration::from_millis(10 * MINUTE));
        let clock = GuardedClock::new(Arc::clone(&wall) as _, Arc::clone(&steady) as _, most);
        clock.start_after(Millis(last_write));
        Watch { wall, steady, clock }
    }

    impl Watch {
        /// Lets time pass on both clocks.
        fn pass(&self, ms: u64) {
            self.wall.0.fetch_add(ms, Ordering::Relaxed);
            self.steady.0.fetch_add(ms, Ordering::Relaxed);
        }

        fn set(&self, wall: u64) {
            self.wall.0.store(wall, Ordering::Relaxed);
        }

        /// The clock's time in milliseconds after `START`, and how many milliseconds it is too far ahead.
        fn reading(&self) -> (i64, u64) {
            let now = self.clock.now();
            let ahead = self.clock.ahead_by().map_or(0, |ahead| ahead.as_millis().try_into().unwrap());
            (signed(now.0) - signed(START), ahead)
        }
    }

    /// Steps: `+5m` lets time pass; `>40d` sets the clock ahead, `<1h` back; `hup` accepts the clock. A bare `5m`
    /// checks the time; `5m!40d` also checks that the clock is 40 days too far ahead.
    #[track_caller]
    fn check(steps: &str) {
        let watch = watch(START - HOUR);
        let ms = |span: &str| {
            let (number, unit) = span.split_at(span.len() - 1);
            let unit = [("s", SECOND), ("m", MINUTE), ("h", HOUR), ("d", DAY)]
                .into_iter()
                .find_map(|(name, ms)| (name == unit).then_some(ms))
                .unwrap();
            number.parse::<i64>().unwrap() * signed(unit)
        };
        assert_eq!(watch.reading(), (0, 0));
        for step in steps.split_whitespace() {
            let wall = watch.wall.now().0;
            match step.split_at(1) {
                ("+", span) => watch.pass(ms(span).try_into().unwrap()),
                (">", span) => watch.set(wall + u64::try_from(ms(span)).unwrap()),
                ("<", span) => watch.set(wall - u64::try_from(ms(span)).unwrap()),
                ("h", "up") => drop(watch.clock.accept()),
                _ => {
                    let (now, ahead) = step.split_once('!').unwrap_or((step, "0s"));
                    let (now, ahead) = (ms(now), u64::try_from(ms(ahead)).unwrap());
                    assert_eq!(watch.reading(), (now, ahead), "{steps}: at {step}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_jumps_is_ignored_until_it_is_right_again() {
        check(">40d 0s!40d +8s 8s!40d <40d 8s +1s 9s");
        check(">40d +8s 8s!40d >1h 8s!961h <1h <40d 8s");
        check(">11m 0s!11m +1h 1h!11m");
        check(">10m 10m");
    }

    #[test]
    fn small_leaps_do_not_add_up() {
        check(">6m 6m >4m 10m >1s 10m!601s +5s 605s!601s");
        // A change of a thousandth is drift.
        check(">6m +100d 144006m >6m 144012m");
    }

    #[test]
    fn a_clock_that_drifts_by_a_thousandth_is_followed() {
        let watch = watch(START);
        for step in 1..=10_000 {
            watch.pass(HOUR);
            watch.set(watch.wall.now().0 + HOUR / 1000);
            assert_eq!(watch.reading(), (step * signed(HOUR + HOUR / 1000), 0));
        }
        watch.set(watch.wall.now().0 + 11 * MINUTE);
        assert!(watch.reading().1 > 10 * MINUTE, "a jump is still noticed");
    }

    #[test]
    fn a_suspended_machine_is_no_leap() {
        // Both clocks count while the machine is suspended.
        check("+30d 30d >40d 30d!40d");
    }

    #[test]
    fn a_clock_that_is_put_back_is_followed_and_right_where_it_was() {
        check("<1h -1h +1s -3599s >1h 1s");
        check("<30d >30d 0s");
    }

    #[test]
    fn an_accepted_jump_is_followed() {
        check(">40d 0s!40d hup 40d +1s 3456001s >40d 3456001s!40d");
        // After the clock is set back, the seqs stay ahead, and no jump is left to ignore.
        check(">40d 0s!40d hup 40d <40d 0s >40d 40d");
        check("hup 0s >40d 0s!40d");
    }

    #[test]
    fn a_clock_that_has_yet_to_catch_up_with_what_was_written_is_no_leap_when_it_does() {
        let watch = watch(START + DAY);
        for (set, expected) in
            [(-20 * 365 * signed(DAY), 0), (0, 0), (signed(2 * DAY), 0), (signed(3 * DAY), DAY)]
        {
            watch.set((signed(START) + set).try_into().unwrap());
            assert_eq!(watch.reading().1, expected, "{set}");
        }
    }

    #[test]
    fn without_a_bound_every_reading_is_trusted() {
        let watch = watch(START);
        watch.clock.set_ahead_max(None);
        assert_eq!(watch.reading(), (0, 0));
        watch.set(START + 4000 * DAY);
        assert_eq!(watch.reading(), (signed(4000 * DAY), 0));
        watch.set(START);
        assert_eq!(watch.reading(), (0, 0));
        watch.clock.set_ahead_max(Some(Duration::ZERO));
        assert_eq!(watch.reading(), (0, 0));
        watch.set(START + 1);
        assert_eq!(watch.reading(), (0, 1));
    }

    #[test]
    fn the_machine_s_own_goes_on() {
        let clock = GuardedClock::of_this_machine(Some(Duration::from_secs(600)));
        let (wall, passed) = (clock.now(), clock.passed());
        assert!(wall > NEVER_BEFORE && clock.now() >= wall && clock.passed() >= passed && !passed.is_zero());
        assert_eq!(clock.ahead_by(), None);
    }
}
