//! `kill -9` again and again, at random moments, under batches and single writes from many connections. After every
//! restart: whatever was answered 2xx is there, no write or row is there by half, nothing is there that was never sent;
//! at the end every accepted batch completes and its counts add up to its rows.
//!
//! With the feature `failpoints` the same test runs against a daemon that answers before it has journaled anything: it
//! must then fail, or it would prove nothing.

use std::time::{Duration, Instant};

use crate::support::load::{Load, Moments, SETTINGS};
use crate::support::{Daemon, variable};

/// Kills in one run: more in a release build, as `.ci/run` makes it; as many as the variable `KILLS` says in the long
/// form.
const KILLS: u32 = if cfg!(debug_assertions) { 12 } else { 120 };
/// Every so manieth start is killed, too, before it is over.
const START_KILLED_EVERY: u32 = 3;
/// Every so manieth time the daemon finds its store gone, and must make it again.
const STORE_LOST_EVERY: u32 = 7;

/// After so many kills another data folder begins: what is verified after each grows with all that was ever written.
const KILLS_OF_A_FOLDER: u32 = 120;

/// Runs the load, kills and restarts so many times, and verifies after each.
fn kill_again_and_again(seed: u64, kills: u32, faults: Option<&str>) -> Result<(), String> {
    let mut daemon = Daemon::configured(SETTINGS);
    if let Some(faults) = faults {
        daemon.set_variable("FAILPOINTS", faults);
    }
    daemon.restart();
    let load = Load::new();
    let mut moments = Moments::new(seed);
    let (mut starts, mut slowest) = (Duration::ZERO, Duration::ZERO);
    for kill in 1..=kills {
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
    let (calls, batches, mean) = (load.calls(), load.batches(), starts / kills);
    eprintln!(
        "{kills} kills, {calls} site calls and {batches} batches acknowledged, nothing lost; ready again after {mean:.0?}, at most {slowest:.0?}"
    );
    let kills = kills as usize;
    assert!(batches > kills / 2 && calls > kills * 10, "too little was going on to prove anything");
    Ok(())
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let kills = variable("KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut left = kills;
    while left > 0 {
        let now = left.min(KILLS_OF_A_FOLDER);
        kill_again_and_again(u64::from(left), now, None).unwrap_or_else(|why| panic!("{why}"));
        left -= now;
    }
    eprintln!("{kills} kills in all");
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
