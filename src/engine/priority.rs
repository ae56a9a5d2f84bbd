//! How willing a thread is to make way: on a busy machine those who wait for an answer come first.

use rustix::process::setpriority_process;
use rustix::thread::gettid;

/// As willing as a thread can be. Some of these threads hold locks that others wait for, but to make way less costs more: see
/// "What was tried and did not help" in BENCHMARKS.md.
const WILLING: i32 = 19;

/// Makes this thread give way to all threads that answer somebody. For applying, parsing and maintenance, which need the
/// processors for seconds at a time. It cannot be undone, so only threads that do nothing else may call it.
pub(in crate::engine) fn give_way() {
    // The system call takes the id of a thread, although its name says process.
    if let Err(error) = setpriority_process(Some(gettid()), WILLING) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn the_thread_that_asks_for_it_gives_way_and_those_it_begins() {
        let own = || getpriority_process(Some(gettid())).unwrap();
        let before = own();
        let asked = std::thread::spawn(move || {
            give_way();
            (own(), std::thread::spawn(own).join().unwrap())
        });
        assert_eq!(asked.join().unwrap(), (WILLING, WILLING));
        assert_eq!(own(), before, "nobody else does");
    }
}
