//! Sequence numbers, which order all accepted writes (R3), and the clock behind them.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

const COUNTER_BITS: u32 = 20;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The time `span_ms` milliseconds later.
    pub fn plus(self, span_ms: u64) -> Self {
        Self(self.0.saturating_add(span_ms))
    }

    /// The time in Adobe's form: ISO 8601 with milliseconds, in UTC.
    pub fn iso_8601(self) -> String {
        let at = i64::try_from(self.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        format!("{:.3}", at.unwrap_or(jiff::Timestamp::MAX))
    }

    /// The time that a text gives: milliseconds since the epoch, or RFC 3339, such as `2026-11-27T02:00:00Z`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().map(Self);
        }
        let at: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(at.as_millisecond()).ok().map(Self)
    }
}

/// A write's place in the order of all accepted writes (R3): a hybrid logical clock of milliseconds since the epoch (44
/// bits) and a counter (20 bits). JSON shows it as a string, because it does not fit JavaScript's exact integers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(u64);

impl Seq {
    /// The seq before every write.
    pub const ZERO: Self = Self(0);

    /// The seq as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The seq with this number.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The time at which the write was accepted, by the clock of seqs.
    pub const fn millis(self) -> Millis {
        Millis(self.0 >> COUNTER_BITS)
    }

    /// The write's number among those of the same millisecond.
    pub const fn counter(self) -> u64 {
        self.0 & ((1 << COUNTER_BITS) - 1)
    }

    /// The last seq that a write of this time can have.
    pub const fn last_at(millis: Millis) -> Self {
        Self::from_parts(millis, (1 << COUNTER_BITS) - 1)
    }

    /// The seq with this time and this counter.
    pub const fn from_parts(millis: Millis, counter: u64) -> Self {
        Self((millis.0 << COUNTER_BITS) | counter)
    }
}

/// Gives out seqs. They strictly increase, even if the clock steps back (R3).
#[derive(Debug)]
pub struct SeqSource {
    last: Seq,
}

impl SeqSource {
    /// Starts after `last`, the highest seq given out so far.
    pub fn after(last: Seq) -> Self {
        Self { last }
    }

    /// The next seq at the time `now`. Runs ahead of the clock if the clock stepped back or a millisecond has more than
    /// 2^20 writes.
    pub fn next(&mut self, now: Millis) -> Seq {
        self.last = Seq(self.last.0.saturating_add(1)).max(Seq::from_parts(now, 0));
        self.last
    }

    /// The last seq given out.
    pub fn last(&self) -> Seq {
        self.last
    }
}

/// A source of the current time.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Millis;
}

/// The machine's clock. No other code reads it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Millis {
        let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX >> COUNTER_BITS))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seq({}+{})", self.millis().0, self.counter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seqs_rise_though_the_clock_stands_or_steps_back() {
        let mut source = SeqSource::after(Seq::ZERO);
        let mut last = Seq::ZERO;
        for now in [1000, 1000, 1000, 900, 1, 0, 1001, 5, 2_000_000_000_000] {
            let seq = source.next(Millis(now));
            assert!(seq > last, "{seq:?} after {last:?} at {now}");
            assert!(seq.millis() >= Millis(now));
            last = seq;
        }
        assert_eq!(last, Seq::from_parts(Millis(2_000_000_000_000), 0));
        assert!(SeqSource::after(last).next(Millis(3)) > last, "a restart with a clock an hour back goes on");
    }

    #[test]
    fn times_are_iso_8601_with_milliseconds() {
        assert_eq!(Millis(0).iso_8601(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Millis(1_701_473_848_678).iso_8601(), "2023-12-01T23:37:28.678Z");
        assert_eq!(Millis(u64::MAX).iso_8601(), "9999-12-30T22:00:00.999Z");
    }

    #[test]
    fn a_full_counter_runs_into_the_next_millisecond() {
        let full = Seq::from_parts(Millis(7), (1 << COUNTER_BITS) - 1);
        let next = SeqSource::after(full).next(Millis(7));
        assert_eq!((next.millis(), next.counter()), (Millis(8), 0));
    }
}
