//! What time it is, as far as the machine's clock is to be believed (R3, R11).
//!
//! ```text
//! wall    what the machine says it is; whoever sets it, sets it
//! steady  milliseconds that passed, also while the machine was suspended; nobody sets them
//! offset  wall - steady: as long as nobody sets the wall clock it stays what it is
//! ```
//!
//! Promises: between two readings the time goes ahead by no more than what really passed and a bound, however the wall
//! clock is set; beyond that the time goes on from the last good reading, which one warning says, until the clock is
//! right again or somebody accepts it. A clock that drifts or is slewed, by up to a thousandth, is followed, and so is one
//! that is put back: seqs do not go back with it. Reading takes no lock: a thread that is kept from running keeps nobody.
//!
//! A start has nothing to compare its clock with, so it believes it ([`GuardedClock::start_after`]); one that is certainly
//! behind, because something was written later already, is believed until it has caught up: machines without a battery
//! begin in 1970 and are put right a moment later.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::model::seq::{Clock, Millis, SystemClock};

/// A clock that reads less than this, the beginning of 2025, has not been set: this program is younger.
const NEVER_BEFORE: Millis = Millis(1_735_689_600_000);
/// The offset may creep by a thousandth of what passes: twice what a clock is slewed by at most.
const CREEP: u64 = 1000;
/// There is no offset yet.
const NONE: i64 = i64::MIN;

/// How much time has passed.
pub trait Steady: Send + Sync {
    /// Milliseconds since some moment or other; nobody sets them, and they go on while the machine is suspended.
    fn passed_ms(&self) -> u64;
}

/// The time since the machine was started.
#[derive(Debug, Clone, Copy, Default)]
pub struct SinceBoot;

impl Steady for SinceBoot {
    fn passed_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
        seconds.unwrap_or_default() * 1000 + nanos.unwrap_or_default() / 1_000_000
    }
}

/// A clock that is believed only as far as it can be.
pub struct GuardedClock {
    wall: Arc<dyn Clock>,
    steady: Arc<dyn Steady>,
    /// How far it may run ahead; the greatest number: as far as it likes.
    ahead_max_ms: AtomicU64,
    /// Below this it is certainly behind.
    behind_below: AtomicU64,
    /// The offset that it is held against.
    offset: AtomicI64,
    /// When that last crept.
    crept_at_ms: AtomicU64,
    /// The offset of the last reading that was believed.
    good: AtomicI64,
    /// By how much it is too far ahead; 0 while it is believed.
    ahead_ms: AtomicU64,
}

impl GuardedClock {
    /// The clock `wall`, which may run ahead of `steady` by so much.
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

    /// The machine's.
    pub fn of_this_machine(ahead_max: Option<Duration>) -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(SinceBoot), ahead_max)
    }

    /// One that is believed whatever it says: of a test that sets it, or of a command that is over in a moment.
    pub fn believing(wall: Arc<dyn Clock>) -> Self {
        Self::new(wall, Arc::new(SinceBoot), None)
    }

    /// Now.
    pub fn now(&self) -> Millis {
        // In this order: a thread that is kept from running in between takes the clock for slow, and never for fast.
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
                        "the machine's clock has leapt ahead and is not believed: time goes on as before. Put it right; or, \
                         if it is right now, accept it by a SIGHUP or a restart"
                    );
                }
                let good = self.good.load(Ordering::Relaxed).saturating_add(signed(passed_ms));
                return Millis(u64::try_from(good).unwrap_or(0));
            }
            if most == u64::MAX {
                // Should there be a bound later, it holds from where the clock is then.
                self.offset.store(offset, Ordering::Release);
            }
            self.creep(held_against, offset, passed_ms);
        } else if wall.0 >= self.behind_below.load(Ordering::Relaxed) {
            self.crept_at_ms.store(passed_ms, Ordering::Relaxed);
            self.offset.store(offset, Ordering::Release);
        }
        if self.ahead_ms.load(Ordering::Relaxed) > 0 && self.ahead_ms.swap(0, Ordering::Relaxed) > 0 {
            tracing::warn!(clock = %wall.iso_8601(), "the machine's clock is believed again");
        }
        if self.good.load(Ordering::Relaxed) != offset {
            self.good.store(offset, Ordering::Relaxed);
        }
        wall
    }

    /// From now on it may run ahead by so much; none: as far as it likes.
    pub fn set_ahead_max(&self, most: Option<Duration>) {
        let most = most.map_or(u64::MAX, |most| u64::try_from(most.as_millis()).unwrap_or(u64::MAX));
        self.ahead_max_ms.store(most, Ordering::Relaxed);
    }

    /// A process begins that goes on after what was written at `last`: what the clock says now is believed, and what it
    /// says until it has caught up with `last`.
    pub fn start_after(&self, last: Millis) {
        self.behind_below.store(last.max(NEVER_BEFORE).0, Ordering::Relaxed);
        self.offset.store(NONE, Ordering::Release);
    }

    /// Believes the clock as it is. Gives by how much it was too far ahead, if it was.
    pub fn accept(&self) -> Option<Duration> {
        self.now();
        let ahead = self.disbelieved()?;
        self.offset.store(NONE, Ordering::Release);
        self.now();
        Some(ahead)
    }

    /// By how much the clock was too far ahead when it was last read, if it was.
    pub fn disbelieved(&self) -> Option<Duration> {
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        (ahead > 0).then(|| Duration::from_millis(ahead))
    }

    /// How much time has passed since some moment or other, whatever the clock says.
    pub fn passed(&self) -> Duration {
        Duration::from_millis(self.steady.passed_ms())
    }

    /// Follows a clock that is believed, and a little off.
    fn creep(&self, held_against: i64, offset: i64, passed_ms: u64) {
        let last = self.crept_at_ms.load(Ordering::Relaxed);
        let step = passed_ms.saturating_sub(last) / CREEP;
        let at = Ordering::Relaxed;
        if step > 0 && self.crept_at_ms.compare_exchange(last, passed_ms, at, at).is_ok() {
            let step = signed(step);
            let by = offset.saturating_sub(held_against).clamp(-step, step);
            // Somebody may have accepted another time meanwhile.
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

    /// A reading of the wall clock, or the milliseconds that passed.
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
    /// When the daemon starts.
    const START: u64 = NEVER_BEFORE.0 + 400 * DAY;

    struct Watch {
        wall: Arc<Set>,
        steady: Arc<Set>,
        clock: GuardedClock,
    }

    /// A clock that reads `START`, after a boot an hour ago; it may run ahead by ten minutes.
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
        /// Time passes, and the clock goes with it.
        fn pass(&self, ms: u64) {
            self.wall.0.fetch_add(ms, Ordering::Relaxed);
            self.steady.0.fetch_add(ms, Ordering::Relaxed);
        }

        fn set(&self, wall: u64) {
            self.wall.0.store(wall, Ordering::Relaxed);
        }

        /// What the clock says, in milliseconds after `START`, and by how many it is too far ahead.
        fn told(&self) -> (i64, u64) {
            let now = self.clock.now();
            let ahead = self.clock.disbelieved().map_or(0, |ahead| ahead.as_millis().try_into().unwrap());
            (signed(now.0) - signed(START), ahead)
        }
    }

    /// Steps: `+5m` time passes; `>40d` the clock is set ahead, `<1h` back; `hup`; then what is told: `5m`, or `5m!40d`
    /// where the clock is 40 days too far ahead.
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
        assert_eq!(watch.told(), (0, 0));
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
                    assert_eq!(watch.told(), (now, ahead), "{steps}: at {step}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_leaps_is_not_believed_until_it_is_right_again() {
        check(">40d 0s!40d +8s 8s!40d <40d 8s +1s 9s");
        check(">40d +8s 8s!40d >1h 8s!961h <1h <40d 8s");
        check(">11m 0s!11m +1h 1h!11m");
        check(">10m 10m");
    }

    #[test]
    fn small_leaps_do_not_add_up() {
        check(">6m 6m >4m 10m >1s 10m!601s +5s 605s!601s");
        // But a thousandth of what passes is a clock that drifts.
        check(">6m +100d 144006m >6m 144012m");
    }

    #[test]
    fn a_clock_that_drifts_by_a_thousandth_is_followed() {
        let watch = watch(START);
        for step in 1..=10_000 {
            watch.pass(HOUR);
            watch.set(watch.wall.now().0 + HOUR / 1000);
            assert_eq!(watch.told(), (step * signed(HOUR + HOUR / 1000), 0));
        }
        watch.set(watch.wall.now().0 + 11 * MINUTE);
        assert!(watch.told().1 > 10 * MINUTE, "a leap is one all the same");
    }

    #[test]
    fn a_suspended_machine_is_no_leap() {
        // The steady time goes on meanwhile, as the clock does.
        check("+30d 30d >40d 30d!40d");
    }

    #[test]
    fn a_clock_that_is_put_back_is_followed_and_right_where_it_was() {
        check("<1h -1h +1s -3599s >1h 1s");
        check("<30d >30d 0s");
    }

    #[test]
    fn whoever_accepts_a_leap_is_believed() {
        check(">40d 0s!40d hup 40d +1s 3456001s >40d 3456001s!40d");
        // Put back after all: the seqs stay ahead, and there is nothing left to be kept from.
        check(">40d 0s!40d hup 40d <40d 0s >40d 40d");
        check("hup 0s >40d 0s!40d");
    }

    #[test]
    fn a_clock_that_has_yet_to_catch_up_with_what_was_written_is_no_leap_when_it_does() {
        let watch = watch(START + DAY);
        for (set, told) in
            [(-20 * 365 * signed(DAY), 0), (0, 0), (signed(2 * DAY), 0), (signed(3 * DAY), DAY)]
        {
            watch.set((signed(START) + set).try_into().unwrap());
            assert_eq!(watch.told().1, told, "{set}");
        }
    }

    #[test]
    fn without_a_bound_it_is_believed_whatever_it_says() {
        let watch = watch(START);
        watch.clock.set_ahead_max(None);
        assert_eq!(watch.told(), (0, 0));
        watch.set(START + 4000 * DAY);
        assert_eq!(watch.told(), (signed(4000 * DAY), 0));
        watch.set(START);
        assert_eq!(watch.told(), (0, 0));
        watch.clock.set_ahead_max(Some(Duration::ZERO));
        assert_eq!(watch.told(), (0, 0));
        watch.set(START + 1);
        assert_eq!(watch.told(), (0, 1));
    }

    #[test]
    fn the_machine_s_own_goes_on() {
        let clock = GuardedClock::of_this_machine(Some(Duration::from_secs(600)));
        let (wall, passed) = (clock.now(), clock.passed());
        assert!(wall > NEVER_BEFORE && clock.now() >= wall && clock.passed() >= passed && !passed.is_zero());
        assert_eq!(clock.disbelieved(), None);
    }
}
