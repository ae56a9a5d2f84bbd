//! Scenarios of writes, batches being accepted and applied, and lookups.

use super::daemon::{LATER, creates, number_of, site_call, skips};
use super::explore;
use super::lives::{Life, in_order, unknown};
use profiled::model::batch::BatchRules;
use std::sync::atomic::Ordering;

#[test]
fn a_lookup_sees_none_or_all_of_a_batch_and_never_goes_back() {
    explore(|daemon| {
        daemon.site("p1 anna", "city=Paris");
        daemon.site("p2 anna", "");
        let batch = daemon.spawn(|d| {
            let batch = d.batch(skips(), "batch=pcId,tier,city\np1,gold,\np2,,Nice\n");
            (batch, d.watch(&["anna"], 1))
        });
        let site = daemon.spawn(|d| {
            let site = d.site("anna", "city=Lyon score=7");
            (site, d.watch(&["p2"], 1))
        });
        let watcher = daemon.spawn(|d| d.watch(&["anna", "p1"], 3));
        let applied = daemon.spawn(|d| d.apply(2)).join().unwrap();
        let ((batch, after_batch), (site, after_site)) = (batch.join().unwrap(), site.join().unwrap());

        let mut anna = Life::default().then(2, "anna+p1+p2 born 1", "city=Paris@1");
        for (write, sets) in in_order(vec![(batch, "tier=gold city=Nice"), (site, "city=Lyon score=7")]) {
            anna = anna.set(write, sets);
        }
        applied.check(batch, "");
        let watched = watcher.join().unwrap();
        for visitor in ["anna", "p1", "p2"] {
            anna.check(visitor, &watched);
            anna.check(visitor, &after_batch);
            anna.check(visitor, &after_site);
        }
    });
}

#[test]
fn a_visitor_born_beside_a_batch_counts_by_the_order() {
    for rules in [skips(), creates()] {
        explore(move |daemon| {
            let (first, second) = (rules.clone(), rules.clone());
            let batch = daemon.spawn(move |d| {
                let batch = d.batch(first, "batch=thirdPartyId,tier,city\nben,iron,\nben,,Oslo\n");
                (batch, d.watch(&["ben"], 1))
            });
            let site = daemon.spawn(|d| {
                let site = d.site("ben", "city=Bonn");
                (site, d.watch(&["ben"], 1))
            });
            let watcher = daemon.spawn(|d| d.watch(&["ben"], 3));
            let applied = daemon.spawn(|d| d.apply(2)).join().unwrap();
            let ((batch, after_batch), (site, after_site)) = (batch.join().unwrap(), site.join().unwrap());

            let (ben, outcomes) = match (site < batch, second.creates) {
                (true, _) => {
                    (unknown().then(site, "ben born 1", "city=Bonn").set(batch, "tier=iron city=Oslo"), "")
                }
                (false, true) => (
                    unknown().then(batch, "ben born 1", "tier=iron city=Oslo").set(site, "city=Bonn"),
                    "2 created",
                ),
                (false, false) => {
                    (unknown().then(site, "ben born 2", "city=Bonn"), "2 not_found, 3 not_found")
                }
            };
            applied.check(batch, outcomes);
            for seen in [watcher.join().unwrap(), after_batch, after_site] {
                ben.check("ben", &seen);
            }
        });
    }
}

#[test]
fn a_site_write_to_a_visitor_being_applied_comes_out_by_the_order() {
    explore(|daemon| {
        daemon.site("anna", "city=Paris");
        daemon.site("carl", "city=Rome");
        let rows = "anna,gold,Nice\nben,iron,\nanna,platinum,\ncarl,tin,\n";
        daemon.batch(skips(), &format!("batch=thirdPartyId,tier,city\n{rows}"));
        let site =
            daemon.spawn(|d| (d.site("anna", "city=Lyon"), d.site("ben", "city=Bonn"), d.watch(&["ben"], 1)));
        let later =
            daemon.spawn(|d| d.batch(skips(), "batch=thirdPartyId,tier,city\nanna,wood,Oslo\nben,clay,\n"));
        let watcher = daemon.spawn(|d| d.watch(&["anna", "ben"], 3));
        let applying = daemon.spawn(|d| (d.apply(2), d.apply(2)));
        let ((anna_site, ben_site, after_site), later) = (site.join().unwrap(), later.join().unwrap());

        let mut anna = Life::default().then(3, "anna born 1", "city=Nice tier=platinum");
        for (write, sets) in in_order(vec![(anna_site, "city=Lyon"), (later, "city=Oslo tier=wood")]) {
            anna = anna.set(write, sets);
        }
        let mut ben = unknown().then(ben_site, &format!("ben born {ben_site}"), "city=Bonn");
        if later > ben_site {
            ben = ben.set(later, "tier=clay");
        }
        let (first, second) = applying.join().unwrap();
        first.check(3, "3 not_found");
        second.check(later, if later > ben_site { "" } else { "3 not_found" });
        let watched = watcher.join().unwrap();
        anna.check("anna", &watched);
        ben.check("ben", &watched);
        ben.check("ben", &after_site);
    });
}

#[test]
fn the_last_rows_show_while_their_batch_is_dropped() {
    explore(|daemon| {
        daemon.site("p1 anna", "city=Paris");
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np2,tin\n");
        let watchers =
            [daemon.spawn(|d| d.watch(&["p1", "p2"], 3)), daemon.spawn(|d| d.watch(&["anna", "p2"], 3))];
        let applying = daemon.spawn(|d| (d.apply(1), d.watch(&["p1", "p2", "anna"], 1)));
        let (applied, after) = applying.join().unwrap();
        applied.check(2, "3 created");
        let anna = Life::default().then(2, "anna+p1 born 1", "city=Paris@1 tier=gold");
        let p2 = Life::default().then(2, "p2 born 2", "tier=tin");
        for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
            anna.check("anna", seen);
            anna.check("p1", seen);
            p2.check("p2", seen);
        }
    });
}

/// A lookup holds the list of pending batches from before a batch was dropped, and reads the store after that.
#[test]
fn a_lookup_begun_before_a_batch_was_dropped_withstands_what_follows() {
    explore(|daemon| {
        daemon.site("p1", "city=Paris");
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np2,tin\n");
        let watcher = daemon.spawn(|d| d.watch(&["p1", "p2"], 2));
        let applying = daemon.spawn(|d| {
            let applied = d.apply(1);
            d.erase("p1");
            d.site("p2 anna", "login=yes");
            d.site("p2 ben", "login=no");
            applied
        });
        applying.join().unwrap().check(2, "3 created");
        let p1 = Life::default().then(2, "p1 born 1", "city=Paris@1 tier=gold").gone(3);
        let p2 = Life::default()
            .then(2, "p2 born 2", "tier=tin")
            .then(4, "anna+p2 born 4", "login=yes")
            .becomes(5, "ben+p2 born 5", "login=no");
        let seen = watcher.join().unwrap();
        p1.check("p1", &seen);
        p2.check("p2", &seen);
    });
}

#[test]
fn a_login_merges_what_a_pending_row_brought() {
    explore(|daemon| {
        daemon.site("p1 e1", "city=Paris page=3");
        daemon.site("anna", "city=Rome");
        daemon.batch(skips(), "batch=pcId,tier,city\np1,gold,Nice\n");
        let login = daemon.spawn(|d| {
            d.site("p1 anna", "login=yes");
            d.set("p1", "tier=lead");
            d.watch(&["p1", "e1", "anna"], 1)
        });
        let watchers =
            [daemon.spawn(|d| d.watch(&["p1", "e1"], 3)), daemon.spawn(|d| d.watch(&["anna", "e1"], 3))];
        let applied = daemon.spawn(|d| d.apply(1)).join().unwrap();
        applied.check(3, "");

        let bound = "anna+p1+e1 born 2";
        let anna = Life::default()
            .then(2, "anna born 2", "city=Rome")
            .then(4, bound, "login=yes page=3@1 tier=gold@3")
            .set(5, "tier=lead");
        let p1 = Life::default()
            .then(3, "p1+e1 born 1", "city=Nice page=3@1 tier=gold")
            .then(4, bound, "city=Rome@2 login=yes")
            .set(5, "tier=lead");
        let after = login.join().unwrap();
        for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
            anna.check("anna", seen);
            p1.check("p1", seen);
            p1.check("e1", seen);
        }
    });
}

#[test]
fn a_pc_id_handed_over_with_a_row_pending_leads_to_the_old_or_the_new_visitor() {
    for rules in [skips(), creates()] {
        explore(move |daemon| {
            daemon.site("p1 anna e1", "city=Paris");
            daemon.site("ben", "city=Rome");
            daemon.batch(rules.clone(), "batch=pcId,tier,city\np1,gold,Nice\n");
            let rules = rules.clone();
            let handover = daemon.spawn(|d| (d.site("p1 ben", "login=yes"), d.watch(&["p1", "e1"], 1)));
            let later = daemon.spawn(move |d| d.batch(rules, "batch=pcId,tier\np1,wood\n"));
            let watchers =
                [daemon.spawn(|d| d.watch(&["p1", "e1"], 3)), daemon.spawn(|d| d.watch(&["anna", "ben"], 3))];
            let applying = daemon.spawn(|d| (d.apply(2), d.apply(2)));
            let ((handover, after), later) = (handover.join().unwrap(), later.join().unwrap());
            let (first, second) = applying.join().unwrap();
            first.check(3, "");
            second.check(later, "");

            let old = || Life::default().then(3, "anna+p1+e1 born 1", "city=Nice tier=gold");
            let new = Life::default().then(2, "ben born 2", "city=Rome");
            let (bound, alone) = ("ben+p1+e1 born 2", "anna born 1");
            let (p1, anna, ben) = if later < handover {
                (
                    old().set(later, "tier=wood").becomes(handover, bound, "city=Rome@2 login=yes"),
                    old().set(later, "tier=wood").then(handover, alone, ""),
                    new.then(handover, bound, "login=yes"),
                )
            } else {
                (
                    old().becomes(handover, bound, "city=Rome@2 login=yes").set(later, "tier=wood"),
                    old().then(handover, alone, ""),
                    new.then(handover, bound, "login=yes").set(later, "tier=wood"),
                )
            };
            for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
                p1.check("p1", seen);
                p1.check("e1", seen);
                anna.check("anna", seen);
                ben.check("ben", seen);
            }
        });
    }
}

#[test]
fn a_visitor_erased_and_reborn_with_a_row_pending_keeps_nothing_of_it() {
    for rules in [skips(), creates()] {
        explore(move |daemon| {
            daemon.site("p1 anna", "city=Paris");
            daemon.site("p2 anna", "");
            let rows = "p1,gold,\np2,,1\np1,lead,\np2,,2\np2,tin,\np1,wood,3\n";
            daemon.batch(rules.clone(), &format!("batch=pcId,tier,points\n{rows}"));
            let rebirth = daemon.spawn(|d| {
                d.erase("p1");
                d.site("p1", "city=Rome");
                d.watch(&["p1", "anna"], 1)
            });
            let watchers = [daemon.spawn(|d| d.watch(&["p1"], 3)), daemon.spawn(|d| d.watch(&["anna"], 6))];
            daemon.spawn(|d| d.apply(1)).join().unwrap().check(3, "");

            let known = || {
                let sets = "city=Paris@1 points=3 tier=wood";
                Life::default().then(3, "anna+p1+p2 born 1", sets).gone(4)
            };
            let (anna, p1) = (known(), known().becomes(5, "p1 born 5", "city=Rome"));
            let after = rebirth.join().unwrap();
            for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
                p1.check("p1", seen);
                anna.check("anna", seen);
            }
        });
    }
}

/// Nobody waits for the batch's answer before the login is sent, so both are often in one group.
#[test]
fn a_batch_and_a_login_right_behind_it_come_in_this_order() {
    explore(|daemon| {
        daemon.site("p1", "page=3");
        daemon.site("anna", "city=Rome");
        let both = daemon.spawn(|d| {
            let batch = d.send(d.upload(skips(), "batch=pcId,tier\np1,gold\np2,tin\n"));
            let login = d.send(site_call("p1 anna", "login=yes"));
            let born = d.send(site_call("p2 anna", "tier=lead"));
            let numbers = [batch, login, born].map(|answer| number_of(&answer.recv().unwrap()));
            (numbers, d.watch(&["p1", "anna"], 1))
        });
        let watchers = [daemon.spawn(|d| d.watch(&["p1"], 3)), daemon.spawn(|d| d.watch(&["anna"], 3))];
        daemon.spawn(|d| d.apply(2)).join().unwrap().check(3, "3 not_found");
        let (numbers, after) = both.join().unwrap();
        assert_eq!(numbers, [3, 4, 5]);

        let p1 = Life::default()
            .then(1, "p1 born 1", "page=3")
            .set(3, "tier=gold")
            .then(4, "anna+p1 born 2", "login=yes city=Rome@2")
            .then(5, "anna+p1+p2 born 2", "tier=lead");
        let anna = Life::default()
            .then(2, "anna born 2", "city=Rome")
            .then(4, "anna+p1 born 2", "login=yes page=3@1 tier=gold@3")
            .then(5, "anna+p1+p2 born 2", "tier=lead");
        for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
            p1.check("p1", seen);
            anna.check("anna", seen);
        }
    });
}

#[test]
fn a_visitor_that_a_row_creates_while_it_logs_in_is_created_once() {
    explore(|daemon| {
        daemon.site("anna", "city=Rome");
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np1,lead\np2,tin\n");
        let login = daemon.spawn(|d| {
            d.site("p1 anna", "login=yes");
            d.site("p2 ben", "login=yes");
            d.watch(&["p1", "p2", "anna"], 1)
        });
        let watchers =
            [daemon.spawn(|d| d.watch(&["p1", "p2"], 3)), daemon.spawn(|d| d.watch(&["anna", "ben"], 3))];
        daemon.spawn(|d| d.apply(2)).join().unwrap().check(2, "2 created, 4 created");

        let anna = Life::default().then(1, "anna born 1", "city=Rome").then(
            3,
            "anna+p1 born 1",
            "login=yes tier=lead@2",
        );
        let p1 = Life::default().then(2, "p1 born 2", "tier=lead").then(
            3,
            "anna+p1 born 1",
            "city=Rome@1 login=yes",
        );
        let p2 = Life::default().then(2, "p2 born 2", "tier=tin").then(4, "ben+p2 born 4", "login=yes");
        let ben = unknown().then(4, "ben+p2 born 4", "login=yes tier=tin@2");
        let after = login.join().unwrap();
        for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
            for (visitor, life) in [("p1", &p1), ("p2", &p2), ("anna", &anna), ("ben", &ben)] {
                life.check(visitor, seen);
            }
        }
    });
}

/// The batch comes after anna has expired, so p1 leads nowhere, and the row creates a visitor there. That changes two keys, which
/// only the commit thread may do.
#[test]
fn a_row_that_creates_where_a_dead_link_stood_leaves_its_old_visitor_alone() {
    explore(|daemon| {
        daemon.site("p1 anna", "city=Paris");
        daemon.site("p2 ben", "city=Bonn");
        daemon.clock.0.store(LATER.0, Ordering::Relaxed);
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np2,tin\n");
        let site = daemon.spawn(|d| (d.site("anna", "city=Rome"), d.watch(&["anna"], 1)));
        let login = daemon.spawn(|d| (d.site("p2 carl", "login=yes"), d.watch(&["p2"], 1)));
        let watchers =
            [daemon.spawn(|d| d.watch(&["p1", "p2"], 3)), daemon.spawn(|d| d.watch(&["anna", "ben"], 3))];
        daemon.spawn(|d| d.apply(2)).join().unwrap().check(101, "2 created, 3 created");

        let ((site, after_site), (login, after_login)) = (site.join().unwrap(), login.join().unwrap());
        let anna = unknown().then(site, &format!("anna born {site}"), "city=Rome");
        let p1 = Life::default().then(101, "p1 born 101", "tier=gold");
        let p2 = Life::default().then(101, "p2 born 101", "tier=tin").then(
            login,
            &format!("carl+p2 born {login}"),
            "login=yes",
        );
        let watched = watchers.map(|watcher| watcher.join().unwrap());
        for seen in watched.iter().chain([&after_site, &after_login]) {
            for (visitor, life) in [("p1", &p1), ("p2", &p2), ("anna", &anna), ("ben", &unknown())] {
                life.check(visitor, seen);
            }
        }
    });
}

#[test]
fn a_row_too_large_fails_once_whoever_resolves_it() {
    explore(|daemon| {
        daemon.site("anna", "city=Paris");
        daemon.site("ben", "city=Rome");
        daemon.site("carl", "city=Oslo");
        let large = "x".repeat(60);
        let rows =
            format!("anna,gold,Nice\nanna,{large},\nben,tin,\nanna,lead,\ncarl,{large},\ndora,{large},\n");
        let rules = BatchRules { max_profile_bytes: 40, ..skips() };
        daemon.batch(rules, &format!("batch=thirdPartyId,tier,city\n{rows}"));
        let sites = daemon.spawn(|d| {
            d.site("anna", "city=Lyon");
            d.site("dora", "city=Bonn");
            d.erase("carl");
            d.watch(&["anna", "carl", "dora"], 1)
        });
        let watcher = daemon.spawn(|d| d.watch(&["anna", "carl", "dora"], 3));
        let applied = daemon.spawn(|d| d.apply(2)).join().unwrap();
        applied.check(4, "3 failed, 6 failed, 7 not_found");

        let anna = Life::default().then(4, "anna born 1", "city=Nice tier=lead").set(5, "city=Lyon");
        let carl = Life::default().then(3, "carl born 3", "city=Oslo").gone(7);
        let dora = unknown().then(6, "dora born 6", "city=Bonn");
        for seen in [watcher.join().unwrap(), sites.join().unwrap()] {
            for (visitor, life) in [("anna", &anna), ("carl", &carl), ("dora", &dora)] {
                life.check(visitor, &seen);
            }
        }
    });
}
