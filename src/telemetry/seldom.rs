//! Warnings that outsiders can cause at will.
//!
//! Promises: such a warning is logged at most once in a given time, and each one says how many were suppressed before it.

use std::time::{Duration, Instant};

/// Limits how often a warning is logged that outsiders can cause at will.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// At most one warning in this time.
    pub fn every(every: Duration) -> Self {
        Self { every, last: None, unsaid: 0 }
    }

    /// `None` if it is too early to log. Otherwise the number of warnings suppressed since the last one.
    pub fn tell(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < self.every) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_caused_at_will_is_said_seldom() {
        let mut seldom = Seldom::every(Duration::from_secs(3600));
        assert_eq!([seldom.tell(), seldom.tell(), seldom.tell()], [Some(0), None, None]);
        seldom.every = Duration::ZERO;
        assert_eq!([seldom.tell(), seldom.tell()], [Some(2), Some(0)]);
    }
}
