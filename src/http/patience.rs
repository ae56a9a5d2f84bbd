//! How long a caller may keep the daemon waiting: for the next bytes of a body, or until it reads the next bytes of an answer.
//!
//! Promises: a caller has a first while, and earns a second for each portion of bytes that it must send or read in one. What it
//! earns adds up to two whiles at most, so that nobody rests for long on earlier work. Time that the daemon itself takes does not
//! count. Reads no clock.

use std::time::Duration;

use crate::config::Pace;

/// A caller stalls once it has kept the daemon waiting for so long beyond what it earned, and once it does for so long
/// without a pause.
const STALLS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Where no rate is asked for, who stalls is judged by this one.
const BYTES_PER_SECOND: u64 = 1 << 10;

/// What is left of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pace: Pace,
    left: Duration,
}

impl Patience {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, left: pace.idle_max }
    }

    /// How long it may wait now; and whether that is for want of bytes before, and not because it is silent.
    pub(super) fn left(&self) -> (Duration, bool) {
        let Pace { idle_max, bytes_per_second_min } = self.pace;
        if bytes_per_second_min == 0 || self.left >= idle_max { (idle_max, false) } else { (self.left, true) }
    }

    /// What is asked of it.
    pub(super) const fn pace(&self) -> Pace {
        self.pace
    }

    /// How long until it stalls, if it goes on waiting.
    pub(super) fn stalls_after(&self) -> Duration {
        (self.left + STALLS.0).saturating_sub(self.pace.idle_max).min(STALLS.1)
    }

    /// The caller kept the daemon waiting.
    pub(super) fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// It brought bytes, or took them.
    pub(super) fn earned(&mut self, bytes: usize) {
        let Pace { idle_max, bytes_per_second_min } = self.pace;
        let rate = if bytes_per_second_min == 0 { BYTES_PER_SECOND } else { bytes_per_second_min };
        let earned = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate);
        self.left = self.left.saturating_add(earned).min(idle_max * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_earned_is_a_while_more_and_is_used_up_by_waiting() {
        let mut patience = Patience::new(Pace { idle_max: seconds(30), bytes_per_second_min: 1 << 10 });
        assert_eq!(patience.left(), (seconds(30), false));
        patience.waited(seconds(12));
        assert_eq!(patience.left(), (seconds(18), true));
        assert_eq!(patience.stalls_after(), Duration::ZERO);
        patience.earned(4 << 10);
        assert_eq!(patience.left(), (seconds(22), true));
        // Ten megabytes at once do not make up for hours of silence.
        patience.earned(10 << 20);
        assert_eq!(patience.stalls_after(), seconds(5));
        patience.waited(seconds(29));
        assert_eq!(patience.left(), (seconds(30), false));
        patience.waited(seconds(29));
        assert_eq!(patience.left(), (seconds(2), true));
        patience.waited(seconds(29));
        assert_eq!(patience.left(), (seconds(0), true));
    }

    #[test]
    fn where_no_rate_is_asked_for_only_silence_counts() {
        let mut patience = Patience::new(Pace { idle_max: seconds(30), bytes_per_second_min: 0 });
        patience.waited(seconds(1000));
        assert_eq!(patience.left(), (seconds(30), false));
        assert_eq!(patience.stalls_after(), Duration::ZERO);
    }
}
