//! A log in memory, for tests and the simulation: it has the ways of the real one, on demand.
//!
//! What becomes of the next appends is set with [`MemoryLog::next_appends`], the time with [`MemoryLog::set_clock`]. Nothing
//! happens by itself: time stands, and what is held comes when it is let go. Each clone is a handle of the same log. It is also a
//! topic of events with one partition, where what has no key gets an empty one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::topic::{EventTopic, EventWriter};
use super::{Appended, Log, LogReader, Offset, OrderError, Record};
use crate::model::seq::Millis;
use crate::sync::unpoisoned;

/// What becomes of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is appended, and told so.
    Append,
    /// It is appended twice: a retry whose first try had arrived.
    Twice,
    /// It is appended, and nobody can say so.
    LoseAcknowledgement,
    /// It is not appended, and nobody can say so.
    Vanish,
    /// It is refused.
    Refuse,
    /// It is appended when [`MemoryLog::release`] lets it, and so are those behind it.
    Hold,
}

/// A log in memory.
#[derive(Clone, Default)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There are new records, or the log is not what it was.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    /// The offset of the first record that is still there.
    low: u64,
    /// The offset that the next record gets.
    end: u64,
    clock: Millis,
    fates: VecDeque<Fate>,
    held: VecDeque<Held>,
    out_of_reach: bool,
    unknown: bool,
    /// Rises when the log becomes another.
    incarnation: u64,
    /// Rises when the readers that are open hear no more.
    deafened: u64,
}

struct Held {
    key: Vec<u8>,
    value: Vec<u8>,
    done: Appended,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time that records get from now on.
    pub fn set_clock(&self, now: Millis) {
        self.with(|state| state.clock = now);
    }

    /// What becomes of the next appends, in turn. Those after them are appended.
    pub fn next_appends(&self, fates: impl IntoIterator<Item = Fate>) {
        self.with(|state| state.fates.extend(fates));
    }

    /// How many appends are held.
    pub fn held(&self) -> usize {
        self.with(|state| state.held.len())
    }

    /// Appends so many of those that are held, the oldest first.
    pub fn release(&self, count: usize) {
        for _ in 0..count {
            let told = self.with(|state| {
                let held = state.held.pop_front()?;
                Some((state.add(held.key, held.value), held.done))
            });
            self.shared.changed.notify_all();
            if let Some((offset, done)) = told {
                done(Ok(offset));
            }
        }
    }

    /// Whether the log is out of reach from now on.
    pub fn set_out_of_reach(&self, out_of_reach: bool) {
        self.with(|state| state.out_of_reach = out_of_reach);
        self.shared.changed.notify_all();
    }

    /// Whether nobody knows the log from now on, as brokers that have just started do.
    pub fn set_unknown(&self, unknown: bool) {
        self.with(|state| state.unknown = unknown);
        self.shared.changed.notify_all();
    }

    /// The readers that are open now bring nothing more and say nothing, as those of a broker that is cut off.
    pub fn deafen_readers(&self) {
        self.with(|state| state.deafened += 1);
    }

    /// Makes it another, empty log of the same name.
    pub fn make_anew(&self) {
        self.with(|state| {
            state.records.clear();
            (state.low, state.end) = (0, 0);
            state.incarnation += 1;
        });
        self.shared.changed.notify_all();
    }

    /// Takes away the records from this offset on, as brokers do that lose what they acknowledged.
    pub fn lose_from(&self, offset: Offset) {
        self.with(|state| {
            state.records.retain(|record| record.offset < offset);
            state.end = state.end.min(offset.0.max(state.low));
        });
        self.shared.changed.notify_all();
    }

    /// All records that are there.
    pub fn records(&self) -> Vec<Record> {
        self.with(|state| state.records.iter().cloned().collect())
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = unpoisoned(self.shared.state.lock());
        change(&mut state)
    }
}

impl State {
    fn add(&mut self, key: Vec<u8>, value: Vec<u8>) -> Offset {
        let offset = Offset(self.end);
        self.end += 1;
        self.records.push_back(Record { offset, time: self.clock, key, value });
        offset
    }

    fn reachable(&self) -> Result<(), OrderError> {
        if self.unknown {
            return Err(OrderError::NotTheSame("nobody knows the log".into()));
        }
        if self.out_of_reach { Err(OrderError::OutOfReach("the log is cut off".into())) } else { Ok(()) }
    }
}

impl Log for MemoryLog {
    fn append(&self, key: &[u8], value: Vec<u8>, done: Appended) {
        let key = key.to_vec();
        let told = self.with(|state| {
            if let Err(error) = state.reachable() {
                return Some((done, Err(error)));
            }
            let fate = state.fates.pop_front().unwrap_or(Fate::Append);
            // Nothing overtakes what is held.
            let fate = if state.held.is_empty() { fate } else { Fate::Hold };
            let lost = || OrderError::Unknown("no acknowledgement came".into());
            let outcome = match fate {
                Fate::Append => Ok(state.add(key, value)),
                Fate::Twice => {
                    let first = state.add(key.clone(), value.clone());
                    state.add(key, value);
                    Ok(first)
                }
                Fate::LoseAcknowledgement => {
                    state.add(key, value);
                    Err(lost())
                }
                Fate::Vanish => Err(lost()),
                Fate::Refuse => Err(OrderError::Refused("the log takes no records".into())),
                Fate::Hold => {
                    state.held.push_back(Held { key, value, done });
                    return None;
                }
            };
            Some((done, outcome))
        });
        self.shared.changed.notify_all();
        if let Some((done, outcome)) = told {
            done(outcome);
        }
    }

    fn read_from(&self, offset: Offset) -> Result<Box<dyn LogReader>, OrderError> {
        let now = |state: &mut State| state.reachable().map(|()| (state.incarnation, state.deafened));
        let (incarnation, deafened) = self.with(now)?;
        Ok(Box::new(MemoryReader { log: self.clone(), at: offset.0, incarnation, deafened }))
    }

    fn ends(&self) -> Result<(Offset, Offset), OrderError> {
        self.with(|state| state.reachable().map(|()| (Offset(state.low), Offset(state.end))))
    }

    fn delete_before(&self, offset: Offset) -> Result<(), OrderError> {
        self.with(|state| {
            state.reachable()?;
            if offset.0 > state.end {
                return Err(OrderError::Refused(format!(
                    "the log ends at offset {}, before {}",
                    state.end, offset.0
                )));
            }
            state.low = state.low.max(offset.0);
            while state.records.front().is_some_and(|record| record.offset.0 < state.low) {
                state.records.pop_front();
            }
            Ok(())
        })
    }
}

impl EventTopic for MemoryLog {
    fn name(&self) -> &str {
        "changes"
    }

    fn open(&self) -> Result<Box<dyn EventWriter>, OrderError> {
        self.with(|state| state.reachable())?;
        Ok(Box::new(MemoryWriter { log: self.clone(), failed: Arc::default() }))
    }
}

struct MemoryWriter {
    log: MemoryLog,
    failed: Arc<AtomicBool>,
}

impl EventWriter for MemoryWriter {
    fn append(&self, key: Option<&[u8]>, event: &[u8], done: Appended) {
        if self.failed.load(Ordering::Acquire) {
            return done(Err(OrderError::OutOfReach("an event before it failed".into())));
        }
        let failed = Arc::clone(&self.failed);
        let done = move |outcome: Result<Offset, OrderError>| {
            failed.fetch_or(outcome.is_err(), Ordering::AcqRel);
            done(outcome);
        };
        Log::append(&self.log, key.unwrap_or_default(), event.to_vec(), Box::new(done));
    }
}

struct MemoryReader {
    log: MemoryLog,
    at: u64,
    incarnation: u64,
    deafened: u64,
}

impl MemoryReader {
    fn look(&self, state: &State) -> Result<Option<Record>, OrderError> {
        if state.deafened != self.deafened {
            return Ok(None);
        }
        state.reachable()?;
        if state.incarnation != self.incarnation {
            return Err(OrderError::NotTheSame("the log was made anew".into()));
        }
        if self.at < state.low || self.at > state.end {
            let (at, low, end) = (self.at, state.low, state.end);
            return Err(OrderError::NotTheSame(format!("offset {at} is not within {low} and {end}")));
        }
        let index = usize::try_from(self.at - state.low).unwrap_or(usize::MAX);
        Ok(state.records.get(index).cloned())
    }
}

impl LogReader for MemoryReader {
    fn next(&mut self, wait: Duration) -> Result<Option<Record>, OrderError> {
        let until = Instant::now() + wait;
        let shared = Arc::clone(&self.log.shared);
        let mut state = unpoisoned(shared.state.lock());
        loop {
            if let Some(record) = self.look(&state)? {
                self.at = record.offset.0 + 1;
                return Ok(Some(record));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state = unpoisoned(shared.changed.wait_timeout(state, left)).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(log: &MemoryLog, value: &str) -> Arc<Mutex<Option<Result<Offset, OrderError>>>> {
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let done = move |outcome| assert!(tell.lock().unwrap().replace(outcome).is_none(), "told twice");
        log.append(b"", value.into(), Box::new(done));
        told
    }

    fn values(log: &MemoryLog) -> Vec<String> {
        let mut reader = log.read_from(log.ends().unwrap().0).unwrap();
        let next =
            || reader.next(Duration::ZERO).unwrap().map(|record| String::from_utf8(record.value).unwrap());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_append_has_the_fate_that_was_set() {
        use Fate::{Append, Hold, LoseAcknowledgement, Refuse, Twice, Vanish};
        let unknown = || Some(Err(OrderError::Unknown("no acknowledgement came".into())));
        let table = [
            (Append, Some(Ok(Offset(0))), 1),
            (Twice, Some(Ok(Offset(0))), 2),
            (LoseAcknowledgement, unknown(), 1),
            (Vanish, unknown(), 0),
            (Refuse, Some(Err(OrderError::Refused("the log takes no records".into()))), 0),
            (Hold, None, 0),
        ];
        for (fate, expected, times) in table {
            let log = MemoryLog::new();
            log.next_appends([fate]);
            let told = append(&log, "x");
            assert_eq!(*told.lock().unwrap(), expected, "{fate:?}");
            assert_eq!(values(&log), vec!["x"; times], "{fate:?}");
        }
    }

    #[test]
    fn what_is_held_comes_in_order_and_nothing_overtakes_it() {
        let log = MemoryLog::new();
        log.next_appends([Fate::Hold]);
        let told = [append(&log, "a"), append(&log, "b")];
        assert_eq!(log.held(), 2);
        log.release(1);
        assert_eq!(values(&log), ["a"]);
        log.release(5);
        assert_eq!(values(&log), ["a", "b"]);
        assert_eq!(*told[1].lock().unwrap(), Some(Ok(Offset(1))));
    }

    #[test]
    fn a_reader_sees_times_and_waits_for_records() {
        let log = MemoryLog::new();
        log.set_clock(Millis(7));
        let mut reader = log.read_from(Offset(0)).unwrap();
        assert_eq!(reader.next(Duration::ZERO), Ok(None));
        let other = log.clone();
        let thread = std::thread::spawn(move || append(&other, "x"));
        let record = reader.next(Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!((record.offset, record.time, &*record.value), (Offset(0), Millis(7), &b"x"[..]));
        thread.join().unwrap();
    }

    #[test]
    fn a_log_that_is_not_what_it_was_is_noticed() {
        type Change = fn(&MemoryLog);
        let changes: [(&str, Change); 3] = [
            ("made anew", MemoryLog::make_anew),
            ("records lost", |log| log.lose_from(Offset(1))),
            ("deleted before it was read", |log| log.delete_before(Offset(3)).unwrap()),
        ];
        for (name, change) in changes {
            let log = MemoryLog::new();
            for value in ["a", "b", "c"] {
                append(&log, value);
            }
            let mut reader = log.read_from(Offset(2)).unwrap();
            change(&log);
            assert!(matches!(reader.next(Duration::ZERO), Err(OrderError::NotTheSame(_))), "{name}");
        }
    }

    #[test]
    fn what_is_deleted_is_gone_and_offsets_stay() {
        let log = MemoryLog::new();
        for value in ["a", "b", "c"] {
            append(&log, value);
        }
        log.delete_before(Offset(1)).unwrap();
        assert_eq!(log.ends(), Ok((Offset(1), Offset(3))));
        assert_eq!(values(&log), ["b", "c"]);
        assert!(matches!(log.delete_before(Offset(4)), Err(OrderError::Refused(_))));
        append(&log, "d");
        assert_eq!(log.records().last().unwrap().offset, Offset(3));
    }

    #[test]
    fn a_log_out_of_reach_takes_nothing_and_comes_back() {
        let log = MemoryLog::new();
        let mut reader = log.read_from(Offset(0)).unwrap();
        log.set_out_of_reach(true);
        let told = append(&log, "a");
        assert!(matches!(*told.lock().unwrap(), Some(Err(OrderError::OutOfReach(_)))));
        assert!(matches!(reader.next(Duration::ZERO), Err(OrderError::OutOfReach(_))));
        assert!(log.ends().is_err() && log.read_from(Offset(0)).is_err());
        log.set_out_of_reach(false);
        append(&log, "b");
        assert_eq!(reader.next(Duration::ZERO).unwrap().unwrap().value, b"b");
    }
}
