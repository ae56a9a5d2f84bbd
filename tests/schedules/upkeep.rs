//! Scenarios with checkpoints, snapshots, fresh stores and the sweeper beside writes, batches and lookups; and a power cut
//! at any moment of them.

use super::daemon::{Daemon, LATER, creates, skips};
use super::lives::{Life, Seen, in_order, unknown};
use super::{explore, explore_again};
use std::sync::atomic::Ordering;

const ALL: [&str; 9] = ["anna", "p1", "ben", "p2", "carl", "p3", "p4", "dora", "emma"];

/// Lets these go on beside everything: a login that merges and one that hands over, an erasure and a rebirth, a batch that
/// is applied and one that is accepted meanwhile, lookups, and a power cut.
fn beside_everything(upkeep: &'static [fn(&Daemon)]) {
    explore(move |daemon| {
        daemon.site("p1 anna", "city=Paris");
        daemon.site("p2", "page=2");
        daemon.site("ben", "city=Rome");
        daemon.site("p3 carl", "");
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np2,tin\np3,lead\np4,new\n");
        let upkeep: Vec<_> = upkeep.iter().map(|one| daemon.spawn(one)).collect();
        let logins = daemon.spawn(|d| {
            let merge = d.site("p2 ben", "login=yes");
            (merge, d.site("p1 dora", "city=Nice"), d.watch(&["p2", "p1"], 1))
        });
        let rebirth = daemon.spawn(|d| (d.erase("p3"), d.site("p3", "city=Oslo"), d.watch(&["p3"], 1)));
        let later = daemon.spawn(|d| d.batch(skips(), "batch=thirdPartyId,tier\nben,wood\nemma,clay\n"));
        let applying = daemon.spawn(|d| (d.apply(2), d.apply(1)));
        let watchers = [
            daemon.spawn(|d| d.watch(&["anna", "ben", "p3"], 2)),
            daemon.spawn(|d| d.watch(&["p1", "p2", "p4", "carl"], 2)),
        ];
        let cut = daemon.spawn(Daemon::cut_sometime);

        let ((merge, handover, after_logins), later) = (logins.join().unwrap(), later.join().unwrap());
        let (erasure, reborn, after_rebirth) = rebirth.join().unwrap();
        let (first, second) = applying.join().unwrap();
        first.check(5, "5 created");
        second.check(later, "3 not_found");
        upkeep.into_iter().for_each(|one| one.join().unwrap());

        let mut anna = Life::default().then(1, "anna+p1 born 1", "city=Paris").set(5, "tier=gold");
        let p1 = Life::default().then(1, "anna+p1 born 1", "city=Paris").set(5, "tier=gold").becomes(
            handover,
            &format!("dora+p1 born {handover}"),
            "city=Nice",
        );
        anna = anna.then(handover, "anna born 1", "");
        let mut ben = Life::default().then(3, "ben born 3", "city=Rome");
        let mut p2 = Life::default().then(2, "p2 born 2", "page=2").set(5, "tier=tin");
        let bound = "ben+p2 born 3";
        for (write, merges) in in_order(vec![(merge, true), (later, false)]) {
            if !merges {
                ben = ben.set(write, "tier=wood");
                p2 = if write > merge { p2.set(write, "tier=wood") } else { p2 };
            } else if write > later {
                ben = ben.then(write, bound, "login=yes page=2@2");
                p2 = p2.then(write, bound, &format!("city=Rome@3 login=yes tier=wood@{later}"));
            } else {
                ben = ben.then(write, bound, "login=yes page=2@2 tier=tin@5");
                p2 = p2.then(write, bound, "city=Rome@3 login=yes");
            }
        }
        let carl = || Life::default().then(4, "carl+p3 born 4", "").set(5, "tier=lead").gone(erasure);
        let p3 = carl().becomes(reborn, &format!("p3 born {reborn}"), "city=Oslo");
        let p4 = unknown().then(5, "p4 born 5", "tier=new");
        let dora = unknown().then(handover, &format!("dora+p1 born {handover}"), "city=Nice");
        let (carl, emma) = (carl(), unknown());
        let lives = [anna, p1, ben, p2, carl, p3, p4, dora, emma];
        let after_cut = cut.join().unwrap().shows(&ALL);
        let watched = watchers.map(|watcher| watcher.join().unwrap());
        for seen in watched.iter().chain([&after_logins, &after_rebirth, &after_cut]) {
            ALL.iter().zip(&lives).for_each(|(visitor, life)| life.check(visitor, seen));
        }
    });
}

#[test]
fn what_checkpoints_cover_is_there_after_a_power_cut() {
    beside_everything(&[|d| {
        d.checkpoint();
        d.checkpoint();
    }]);
}

#[test]
fn a_store_made_from_a_snapshot_taken_amid_everything_shows_the_same() {
    beside_everything(&[|d| {
        d.snapshot();
        d.snapshot();
    }]);
}

#[test]
fn a_fresh_store_swapped_in_amid_everything_lacks_nothing() {
    beside_everything(&[Daemon::fresh]);
}

#[test]
fn checkpoints_speak_of_the_store_in_use_while_a_fresh_one_is_swapped_in() {
    beside_everything(&[
        |d| {
            d.fresh();
            d.snapshot();
        },
        |d| {
            d.checkpoint();
            d.checkpoint();
        },
        Daemon::sweep,
    ]);
}

/// Nothing applies a complete batch again. So its rows must be on the disk in any store that a restart may find, also between the
/// last steps of the swap.
#[test]
fn a_batch_that_is_complete_is_in_whichever_store_a_restart_finds() {
    explore(|daemon| {
        daemon.site("p1", "city=Paris");
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np2,tin\n");
        let applying = daemon.spawn(|d| {
            d.apply(1).check(2, "3 created");
            d.cut()
        });
        let fresh = daemon.spawn(Daemon::fresh);
        let seen = applying.join().unwrap().shows(&["p1", "p2"]);
        fresh.join().unwrap();
        Life::default().then(2, "p1 born 1", "city=Paris@1 tier=gold").check("p1", &seen);
        Life::default().then(2, "p2 born 2", "tier=tin").check("p2", &seen);
    });
}

/// A row was applied to the visitor that its id led to. Then that visitor expired, and the sweeper removed the link and left a
/// tombstone. In a rebuilt store the batch is pending, and without the tombstone its row would create a visitor.
fn a_row_went_through_a_link_that_was_swept(daemon: &Daemon) {
    daemon.site("p1 anna", "city=Paris");
    // A visitor that the row created would outlive anna.
    daemon.clock.0.fetch_add(1, Ordering::Relaxed);
    daemon.batch(creates(), "batch=pcId,tier\np1,gold\n");
    daemon.apply(1);
    daemon.clock.0.store(LATER.0, Ordering::Relaxed);
    daemon.site("anna", "city=Rome");
    // They come before p1, and give the sweeper time.
    ["p01", "p02", "p03", "p04"].into_iter().for_each(|id| _ = daemon.site(id, ""));
    daemon.sweep();
}

fn nobody_was_created(seen: &[Seen]) {
    unknown().check("p1", seen);
    Life::default().then(101, "anna born 101", "city=Rome").check("anna", seen);
}

/// The batch may be incomplete at the snapshot's position, and complete before the snapshot reaches the tombstone.
#[test]
fn no_tombstone_goes_from_under_a_snapshot_that_needs_it() {
    explore_again(a_row_went_through_a_link_that_was_swept, |daemon| {
        daemon.checkpoint();
        let rows = daemon.apply_rows(1);
        let applying = daemon.spawn(|d| {
            d.complete(rows).check(0, "");
            d.sweep();
        });
        let snapshot = daemon.spawn(Daemon::snapshot);
        let watcher = daemon.spawn(|d| d.watch(&["p1", "anna"], 2));
        let cut = daemon.spawn(Daemon::cut_sometime);
        applying.join().unwrap();
        snapshot.join().unwrap();
        nobody_was_created(&watcher.join().unwrap());
        nobody_was_created(&cut.join().unwrap().shows(&["p1", "anna"]));
    });
}

#[test]
fn no_tombstone_is_left_out_of_a_fresh_store_that_needs_it() {
    explore_again(a_row_went_through_a_link_that_was_swept, |daemon| {
        daemon.checkpoint();
        let fresh = daemon.spawn(Daemon::fresh);
        let applying = daemon.spawn(|d| {
            d.apply(1).check(0, "");
            d.sweep();
        });
        let watcher = daemon.spawn(|d| d.watch(&["p1", "anna"], 2));
        let cut = daemon.spawn(Daemon::cut_sometime);
        applying.join().unwrap();
        fresh.join().unwrap();
        nobody_was_created(&watcher.join().unwrap());
        nobody_was_created(&cut.join().unwrap().shows(&["p1", "anna"]));
    });
}
