//! Whether the threads that everything depends on still move: what `/healthz`, `/readyz` and systemd's watchdog ask.
//!
//! Promises: asking costs nothing and waits for nobody; a thread that waits for something to do is well.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A thread's last sign of life.
#[derive(Debug)]
pub(in crate::engine) struct Pulse {
    start: Instant,
    /// Milliseconds after `start`, and one; 0 while it waits for something to do.
    beat: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { start: Instant::now(), beat: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// It begins something, or goes on with it.
    pub(in crate::engine) fn beat(&self) {
        self.beat_at(Instant::now());
    }

    /// It waits for something to do.
    pub(in crate::engine) fn idle(&self) {
        self.beat.store(0, Ordering::Relaxed);
    }

    /// For how long it has been at the same thing, if that is longer than `most`.
    pub(in crate::engine) fn stuck_for(&self, most: Duration) -> Option<Duration> {
        self.stuck_at(Instant::now(), most)
    }

    fn beat_at(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.start).as_millis();
        self.beat.store(u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    fn stuck_at(&self, now: Instant, most: Duration) -> Option<Duration> {
        let beat = self.beat.load(Ordering::Relaxed).checked_sub(1)?;
        let passed = now.saturating_duration_since(self.start).saturating_sub(Duration::from_millis(beat));
        (passed > most).then_some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_at_the_same_thing_for_too_long_is_stuck_and_who_waits_is_not() {
        let pulse = Pulse::default();
        let (at, most) = (|seconds| pulse.start + Duration::from_secs(seconds), Duration::from_secs(30));
        assert_eq!(pulse.stuck_at(at(1_000), most), None);
        pulse.beat_at(at(1_000));
        assert_eq!(pulse.stuck_at(at(1_030), most), None);
        assert_eq!(pulse.stuck_at(at(1_031), most), Some(Duration::from_secs(31)));
        pulse.beat_at(at(1_031));
        assert_eq!(pulse.stuck_at(at(1_032), most), None);
        pulse.idle();
        assert_eq!(pulse.stuck_at(at(9_000), most), None);
    }
}
