//! How willing a thread is to make way: on a busy machine those who wait for an answer come first.

use rustix::process::setpriority_process;
use rustix::thread::gettid;

/// As willing as a thread can be. Some of these threads hold locks that others wait for, but to give way less costs more: see
/// "What was tried and did not help" in BENCHMARKS.md.
const WILLING: i32 = 19;

/// Has this thread give way to all that answer somebody: for folding, parsing and upkeep, which take the processors for
/// seconds at a time. It can't be taken back, so only threads that do nothing else should call it.
pub(in crate::engine) fn give_way() {
    // The system counts threads here, though it speaks of processes.
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
