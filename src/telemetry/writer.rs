//! Queues log lines for the one thread that writes them to standard error.
//!
//! Promises: logging never waits and never fails, whatever happens to the reader, the terminal or the disk. The queue
//! is bounded in bytes. A line that finds the queue full, or that cannot be written, is lost and counted; when lines
//! can be written again, the log says how many were lost. `tracing-appender` does not fit: its queue is bounded in
//! lines only, it does not count lines that cannot be written, and at its end it prints to standard output and panics
//! if that is closed.

use crate::sync::unpoisoned;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::seldom::Seldom;

/// The most lines in the queue.
const LINES_WAITING_MAX: usize = 4096;
/// The most bytes in the queue.
const BYTES_WAITING_MAX: usize = 2 << 20;
/// How often the log may report lost lines.
const LOSS_REPORTED_EVERY: Duration = Duration::from_secs(10);

/// The queue of log lines. Cheap to clone; each [`Write::write`] is one line.
#[derive(Debug, Clone)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: SyncSender<Vec<u8>>,
    waiting_bytes: AtomicUsize,
    /// The number of lines that entered the queue.
    taken: AtomicU64,
    lost: AtomicU64,
    /// How many of them were written or lost.
    done: Mutex<u64>,
    progress: Condvar,
}

impl Lines {
    /// Starts a thread that writes to `out`.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(LINES_WAITING_MAX);
        let lines = Self(Arc::new(Shared {
            queue,
            waiting_bytes: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            done: Mutex::new(0),
            progress: Condvar::new(),
        }));
        let shared = Arc::clone(&lines.0);
        std::thread::Builder::new().name("log".into()).spawn(move || shared.write_all(&waiting, out))?;
        Ok(lines)
    }

    /// The number of lines lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until all lines logged so far are written or lost, for at most `most`.
    pub(super) fn flush(&self, most: Duration) {
        let (until, all) = (Instant::now() + most, self.0.taken.load(Ordering::Acquire));
        let mut done = self.0.done();
        while *done < all {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            done = unpoisoned(self.0.progress.wait_timeout(done, left)).0;
        }
    }
}

impl Write for Lines {
    /// Never fails: a line is lost if the queue is full.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let shared = &*self.0;
        let waiting = shared.waiting_bytes.fetch_add(line.len(), Ordering::AcqRel);
        let fits = waiting + line.len() <= BYTES_WAITING_MAX;
        if fits && shared.queue.try_send(line.to_vec()).is_ok() {
            shared.taken.fetch_add(1, Ordering::Release);
        } else {
            shared.waiting_bytes.fetch_sub(line.len(), Ordering::AcqRel);
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn done(&self) -> MutexGuard<'_, u64> {
        unpoisoned(self.done.lock())
    }

    /// Writes lines until nobody can log any more. An error loses only its line, because a full disk may get space
    /// again.
    fn write_all(&self, waiting: &Receiver<Vec<u8>>, mut out: impl Write) {
        let (mut torn, mut written, mut reported) = (false, false, 0);
        let mut seldom = Seldom::every(LOSS_REPORTED_EVERY);
        for line in waiting {
            self.waiting_bytes.fetch_sub(line.len(), Ordering::AcqRel);
            // Logged here, because the queue has space for one more line now.
            let lost = self.lost.load(Ordering::Relaxed);
            if written && lost > reported && seldom.tell().is_some() {
                tracing::warn!(
                    lines = lost - reported,
                    "log lines were lost: standard error could not be written, or not fast enough"
                );
                if self.lost.load(Ordering::Relaxed) == lost {
                    reported = lost;
                }
            }
            // A part of the last line may have been written.
            let end = if torn { out.write_all(b"\n") } else { Ok(()) };
            torn = end.and_then(|()| out.write_all(&line)).is_err();
            written = !torn;
            if torn {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            *self.done() += 1;
            self.progress.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// An output whose every write waits for the test to give its result.
    struct Scripted {
        next: Receiver<io::Result<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.next.recv().unwrap_or(Ok(()))?;
            self.written.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Written = Arc<Mutex<Vec<u8>>>;

    fn lines() -> (Lines, Sender<io::Result<()>>, Written) {
        let ((result, next), written) = (channel(), Written::default());
        let lines = Lines::to(Scripted { next, written: Arc::clone(&written) }).unwrap();
        (lines, result, written)
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_line_is_whole() {
        let (mut lines, result, written) = lines();
        for line in ["a\n", "b\n", "c\n"] {
            lines.write_all(line.as_bytes()).unwrap();
        }
        result.send(Ok(())).unwrap();
        result.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        drop(result);
        lines.flush(PATIENCE);
        assert_eq!((lines.lost(), &*written.lock().unwrap()), (1, &b"a\n\nc\n".to_vec()));
    }

    #[test]
    fn nobody_waits_for_an_output_that_takes_nothing() {
        let (mut lines, result, written) = lines();
        let line = vec![b'x'; 64 << 10];
        for _ in 0..200 {
            lines.write_all(&line).unwrap();
        }
        // The writer has taken at most one line.
        let room = (BYTES_WAITING_MAX / line.len()) as u64;
        assert!((200 - room - 1..=200 - room).contains(&lines.lost()), "{}", lines.lost());
        lines.flush(Duration::from_millis(1));
        assert!(written.lock().unwrap().is_empty());
        drop(result);
        lines.flush(PATIENCE);
        assert_eq!(lines.0.waiting_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_small_lines_are_bounded_too() {
        let (mut lines, _result, _written) = lines();
        for _ in 0..LINES_WAITING_MAX * 2 {
            lines.write_all(b"x").unwrap();
        }
        // The writer has taken at most one line.
        let most = LINES_WAITING_MAX as u64;
        assert!((most - 1..=most).contains(&lines.lost()), "{}", lines.lost());
    }

    #[test]
    fn a_line_larger_than_the_queue_is_lost() {
        let (mut lines, ..) = lines();
        lines.write_all(&vec![b'x'; BYTES_WAITING_MAX + 1]).unwrap();
        assert_eq!(lines.lost(), 1);
    }
}
