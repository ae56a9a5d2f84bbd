//! A reader that notices when it hears no more of a log.
//!
//! Promises: a reader that brings nothing either has everything, as the log says itself, or gives an error soon. A broker that
//! cannot be reached, or that no longer leads and does not know it, may leave a reader in silence without an error.

use super::{Log, LogReader, Offset, OrderError, Record};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After so long without a record the log is asked whether it has more.
const SILENT: Duration = Duration::from_secs(2);

/// A reader of a log from this offset on, which notices when it hears no more. Blocks.
pub fn listen(log: &Arc<dyn Log>, offset: Offset) -> Result<Box<dyn LogReader>, OrderError> {
    Ok(Box::new(Listener::new(log, offset, SILENT)?))
}

struct Listener {
    log: Arc<dyn Log>,
    reader: Box<dyn LogReader>,
    /// The offset that comes next.
    next: Offset,
    /// When something came last, or the log was asked.
    heard: Instant,
    /// Where the log ended when it was asked, if nothing came since.
    end: Offset,
    silent: Duration,
}

impl Listener {
    fn new(log: &Arc<dyn Log>, offset: Offset, silent: Duration) -> Result<Self, OrderError> {
        let reader = log.read_from(offset)?;
        let log = Arc::clone(log);
        Ok(Self { log, reader, next: offset, heard: Instant::now(), end: offset, silent })
    }

    /// Asks the log for its end. What it had when it was asked before must have come by now.
    fn ask(&mut self) -> Result<(), OrderError> {
        if self.end > self.next {
            let (end, next) = (self.end, self.next);
            return Err(OrderError::OutOfReach(format!(
                "it ends at {end}, and nothing comes from {next} on"
            )));
        }
        (_, self.end) = self.log.ends()?;
        self.heard = Instant::now();
        Ok(())
    }
}

impl LogReader for Listener {
    fn next(&mut self, wait: Duration) -> Result<Option<Record>, OrderError> {
        let record = self.reader.next(wait)?;
        if let Some(record) = &record {
            (self.next, self.heard) = (record.offset.next(), Instant::now());
        } else if self.heard.elapsed() >= self.silent {
            self.ask()?;
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::memory::MemoryLog;

    #[test]
    fn silence_is_an_error_only_if_the_log_has_more_or_is_out_of_reach() {
        let memory = MemoryLog::new();
        let log: Arc<dyn Log> = Arc::new(memory.clone());
        let append = || log.append(b"", vec![1], Box::new(drop));
        let mut next = {
            let mut reader = Listener::new(&log, Offset(0), Duration::ZERO).unwrap();
            move || reader.next(Duration::ZERO)
        };
        append();
        assert_eq!(next().unwrap().unwrap().offset, Offset(0));
        // It has everything, however often it asks.
        assert_eq!((next(), next(), next()), (Ok(None), Ok(None), Ok(None)));
        append();
        assert_eq!(next().unwrap().unwrap().offset, Offset(1));
        memory.deafen_readers();
        assert_eq!((next(), next()), (Ok(None), Ok(None)));
        append();
        assert_eq!(next(), Ok(None), "it may come yet");
        assert!(matches!(next(), Err(OrderError::OutOfReach(_))));
        memory.set_out_of_reach(true);
        let deaf = Listener::new(&log, Offset(0), Duration::ZERO);
        assert!(deaf.is_err());
        memory.set_out_of_reach(false);
        let mut reader = Listener::new(&log, Offset(2), Duration::ZERO).unwrap();
        memory.deafen_readers();
        memory.set_out_of_reach(true);
        assert!(matches!(reader.next(Duration::ZERO), Err(OrderError::OutOfReach(_))));
    }
}
