//! A thread's last sign of life. `/healthz`, `/readyz` and systemd's watchdog ask for it.
//!
//! Promises: to ask costs nothing and waits for nobody. A thread that waits for work counts as alive.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A thread's last sign of life.
#[derive(Debug)]
pub(super) struct Heartbeat {
    start: Instant,
    /// Milliseconds after `start`, plus one; 0 while the thread waits for work.
    beat: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { start: Instant::now(), beat: AtomicU64::new(0) }
    }
}

impl Heartbeat {
    /// The thread begins a step.
    pub(super) fn beat(&self) {
        self.beat_at(Instant::now());
    }

    /// The thread waits for work.
    pub(super) fn idle(&self) {
        self.beat.store(0, Ordering::Relaxed);
    }

    /// How long the thread has been at the same step, if that is longer than `most`.
    pub(super) fn stuck_for(&self, most: Duration) -> Option<Duration> {
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
    fn a_thread_is_stuck_if_one_step_takes_too_long_and_not_if_it_waits_for_work() {
        let heartbeat = Heartbeat::default();
        let (at, most) = (|seconds| heartbeat.start + Duration::from_secs(seconds), Duration::from_secs(30));
        assert_eq!(heartbeat.stuck_at(at(1_000), most), None);
        heartbeat.beat_at(at(1_000));
        assert_eq!(heartbeat.stuck_at(at(1_030), most), None);
        assert_eq!(heartbeat.stuck_at(at(1_031), most), Some(Duration::from_secs(31)));
        heartbeat.beat_at(at(1_031));
        assert_eq!(heartbeat.stuck_at(at(1_032), most), None);
        heartbeat.idle();
        assert_eq!(heartbeat.stuck_at(at(9_000), most), None);
    }
}
