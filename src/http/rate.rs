//! How often a caller may call: some calls at once, then one whenever the next is due (the generic cell rate algorithm).
//!
//! Promises: memory is bounded, however many callers there are. A caller who has not called for a while is forgotten. The
//! crate `governor` does not fit: a limiter there has one rate for all its keys, and no bound on their number.

use crate::sync::{Mutex, lock};
use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// The most callers that are known. Beyond them a new caller passes: a limit per caller does not help against so many.
const CALLERS_MAX: usize = 65_536;
/// Below so many callers none is forgotten.
const CALLERS_UNSWEPT: usize = 1_024;
/// How often a full table is swept at most.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// So many calls in so much time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) calls: NonZeroU32,
    pub(super) per: Duration,
}

/// The calls that the callers of one kind have left.
#[derive(Debug)]
pub(super) struct Rates<K>(Mutex<Known<K>>);

#[derive(Debug)]
struct Known<K> {
    /// When each has all its calls again.
    full_at: HashMap<K, Instant>,
    /// The number of callers at which the next sweep is due.
    sweep_at: usize,
    swept: Option<Instant>,
}

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self(Mutex::new(Known { full_at: HashMap::new(), sweep_at: CALLERS_UNSWEPT, swept: None }))
    }
}

impl<K: Hash + Eq> Rates<K> {
    /// Takes one of a caller's calls. An error says how long to wait for the next.
    pub(super) fn take(&self, caller: K, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut known = lock(&self.0);
        let full_at = known.full_at.get(&caller).map_or(now, |full_at| now.max(*full_at));
        let full_at = full_at + rate.per / rate.calls.get();
        let missing = (full_at - now).saturating_sub(rate.per);
        if !missing.is_zero() {
            return Err(missing);
        }
        if known.has_room(now) || known.full_at.contains_key(&caller) {
            known.full_at.insert(caller, full_at);
        }
        Ok(())
    }
}

impl<K: Hash + Eq> Known<K> {
    fn has_room(&mut self, now: Instant) -> bool {
        let due = self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP_EVERY);
        if self.full_at.len() >= self.sweep_at && due {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = (2 * self.full_at.len()).clamp(CALLERS_UNSWEPT, CALLERS_MAX);
            self.swept = Some(now);
        }
        self.full_at.len() < CALLERS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn rate(calls: u32, seconds: u64) -> Rate {
        Rate { calls: NonZeroU32::new(calls).unwrap(), per: Duration::from_secs(seconds) }
    }

    #[test]
    fn so_many_calls_at_once_and_then_one_whenever_it_is_due() {
        let (rates, begin) = (Rates::default(), Instant::now());
        let take = |caller: &'static str, seconds: u64| {
            rates.take(caller, rate(50, 60), begin + Duration::from_secs(seconds))
        };
        for n in 0..50 {
            assert_eq!(take("a", 0), Ok(()), "{n}");
        }
        assert_eq!(take("a", 0), Err(Duration::from_millis(1_200)));
        assert_eq!(take("a", 1), Err(Duration::from_millis(200)));
        assert_eq!(take("b", 1), Ok(()), "another caller has its own");
        assert_eq!(take("a", 2), Ok(()));
        assert_eq!(take("a", 2), Err(Duration::from_millis(400)));
        // What was not used does not add up beyond a minute's calls.
        for n in 0..50 {
            assert_eq!(take("a", 1_000), Ok(()), "{n}");
        }
        assert!(take("a", 1_000).is_err());
    }

    #[test]
    fn a_rate_that_does_not_divide_its_time_loses_no_call() {
        let (rates, now) = (Rates::default(), Instant::now());
        for calls in [1, 3, 7, 999, 1_000_000] {
            let taken = (0..=calls).take_while(|_| rates.take(calls, rate(calls, 1), now).is_ok()).count();
            assert_eq!(taken, calls as usize);
        }
    }

    #[test]
    fn who_has_not_called_for_a_while_is_forgotten_and_memory_is_bounded() {
        let (rates, begin) = (Rates::default(), Instant::now());
        let known = || rates.0.lock().unwrap().full_at.len();
        for caller in 0..CALLERS_MAX as u64 + 10 {
            assert_eq!(rates.take(caller, rate(1, 60), begin), Ok(()));
        }
        assert_eq!(known(), CALLERS_MAX);
        assert!(rates.take(7, rate(1, 60), begin).is_err(), "those that are known still have their limit");
        assert_eq!(rates.take(1 << 40, rate(1, 60), begin + Duration::from_secs(61)), Ok(()));
        assert_eq!(known(), 1);
    }
}
