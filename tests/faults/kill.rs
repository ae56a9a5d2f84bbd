//! `kill -9` again and again, at random moments, under batches and single writes from many connections. After every restart, all
//! writes that were answered 2xx are there, no half of a write or row is there, and nothing that was never sent. At the end every
//! accepted batch completes, and its counts add up to its rows.
//!
//! With the feature `failpoints` the same test runs against a daemon that answers before it has journaled anything. There the
//! test must fail; otherwise it would prove nothing.

use std::time::{Duration, Instant};

use crate::support::load::{Load, Moments, SETTINGS};
use crate::support::seed::with_each_seed;
use crate::support::{Daemon, long, variable};

/// How many kills one run makes, half of them with each seed, unless the variable `KILLS` says otherwise.
const KILLS: u32 = 12;
const KILLS_OF_THE_LONG_FORM: u32 = 120;
/// One start in this many is killed before it is over.
const START_KILLED_EVERY: u32 = 3;
/// One start in this many finds the store gone and must rebuild it.
const STORE_LOST_EVERY: u32 = 7;

/// After this many kills a new data folder begins, because the check after each kill grows with all that was written.
const KILLS_OF_A_FOLDER: u32 = 120;

/// Runs the load, and kills, restarts and verifies this many times.
fn kill_again_and_again(seed: u64, kills: u32, faults: Option<&str>) -> Result<(), String> {
    let mut daemon = Daemon::configured(SETTINGS);
    if let Some(faults) = faults {
        daemon.set_variable("FAILPOINTS", faults);
    }
    daemon.restart();
    let load = Load::new();
    let mut moments = Moments::new(seed);
    let (mut starts, mut slowest) = (Duration::ZERO, Duration::ZERO);
    let mut kill = 0;
    while kill < kills || (faults.is_none() && !enough(&load, kills)) {
        kill += 1;
        assert!(kill < kills * 5, "too little is going on to prove anything");
        let time = moments.next(Duration::from_millis(5), Duration::from_millis(200));
        let address = daemon.address();
        load.run_for(time, address, || {
            daemon.kill9();
        });
        if kill.is_multiple_of(STORE_LOST_EVERY) {
            std::fs::remove_file(daemon.data().join("store/current")).map_err(|why| why.to_string())?;
        }
        if kill.is_multiple_of(START_KILLED_EVERY) {
            let time = moments.next(Duration::ZERO, Duration::from_millis(60));
            daemon.start_and_kill9_after(time);
        }
        let began = Instant::now();
        // With journaling switched off, it may also refuse to start on a journal that ends before its checkpoint.
        daemon.try_restart().map_err(|why| format!("after kill {kill}: {why}"))?;
        starts += began.elapsed();
        slowest = slowest.max(began.elapsed());
        load.verify(&daemon).map_err(|why| format!("after kill {kill}: {why}"))?;
    }
    load.account_for_batches(&daemon)?;
    load.verify(&daemon)?;
    let (calls, batches, mean) = (load.calls(), load.batches(), starts / kill);
    eprintln!(
        "{kill} kills, {calls} site calls and {batches} batches acknowledged, nothing lost; ready again after {mean:.0?}, at most {slowest:.0?}"
    );
    Ok(())
}

/// Whether enough was acknowledged for this many kills to prove something. On a busy machine that takes more kills.
fn enough(load: &Load, kills: u32) -> bool {
    let kills = kills as usize;
    load.batches() > kills / 2 && load.calls() > kills * 10
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let kills = variable("KILLS")
        .map_or_else(|| if long() { KILLS_OF_THE_LONG_FORM } else { KILLS }, |kills| kills.parse().unwrap());
    with_each_seed(|seed| {
        let mut left = kills / 2;
        while left > 0 {
            let now = left.min(KILLS_OF_A_FOLDER);
            kill_again_and_again(seed + u64::from(left), now, None).unwrap_or_else(|why| panic!("{why}"));
            left -= now;
        }
    });
}

/// The negative control: the journal's write and sync do nothing, and the daemon acknowledges all the same.
#[cfg(feature = "failpoints")]
#[test]
fn a_daemon_that_does_not_journal_is_found_out() {
    match kill_again_and_again(0, 10, Some("journal-write=return;journal-sync=return")) {
        Ok(()) => panic!("a daemon that journals nothing passed the kill test"),
        Err(why) => eprintln!("found out: {why}"),
    }
}
