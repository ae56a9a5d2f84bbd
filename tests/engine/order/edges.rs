//! The edge cases of the order by name, each with a restart of every kind and a whole batch applied at every place.

use super::harness::Harness;
use super::model::{Id, Kind, Outcome};
use super::ops::{Batch, Call, DAY_MS, HOUR_MS, How, Op, Row, Settings, Stop, Text, id};
use super::stores::Which;
use Kind::{Ecid, Pc, ThirdParty};
use Outcome::{Created, Failed, NotFound, Updated};
use Text::{One, Two};

const A: usize = 0;
const B: usize = 1;
const UNKNOWN: Option<&str> = None;

fn settings() -> Settings {
    Settings { creates: false, replaces: false, lifetime_ms: 14 * DAY_MS, profile_bytes_max: 1 << 20 }
}

fn creating() -> Settings {
    Settings { creates: true, ..settings() }
}

/// A site call with a pcId, a thirdPartyId or both.
fn site(pc: Option<usize>, third_party: Option<usize>, sets: &[(usize, Text)]) -> Call {
    Call::Site { pc, third_party, ecid: None, sets: sets.to_vec() }
}

fn update(who: usize, sets: &[(usize, Text)]) -> Call {
    Call::Update { kind: ThirdParty, who, sets: sets.to_vec() }
}

fn one_column(by: Kind, rows: Vec<Row>) -> Batch {
    let columns = vec![A];
    Batch { by, ndjson: false, v2: true, removes: false, time: None, columns, rows, fillers: 0 }
}

/// A batch that sets attribute `a`.
fn batch(by: Kind, rows: &[(usize, Text)]) -> Call {
    let row = |(who, text): &(usize, Text)| Row::Good { who: *who, hint: false, cells: vec![*text] };
    let rows = rows.iter().map(row).collect();
    Call::Batch(one_column(by, rows))
}

fn one(call: Call) -> Op {
    Op::Commit(vec![(0, call)])
}

fn group(calls: Vec<Call>) -> Op {
    Op::Commit(calls.into_iter().map(|call| (0, call)).collect())
}

fn apply(steps: usize) -> Op {
    Op::Apply { steps, part: 0, joins: false }
}

fn restart(how: How) -> Op {
    Op::Restart { how, fate: 3, hour_back: false, settings: None }
}

fn snapshot(steps: usize) -> Op {
    Op::Snapshot { steps, rotate: true, retire: true, retention_over: false }
}

fn fresh(steps: usize) -> Op {
    Op::Fresh { steps, stop: Stop::Nowhere }
}

/// Runs a sequence unchanged, and with a restart or an applied batch put in at each place. Returns what lookups then show, and
/// the outcomes of each batch's rows, in order.
#[track_caller]
fn holds(settings: Settings, ops: &[Op], reads: &[(Id, Option<&str>)], became: &[&[Outcome]]) {
    let check = |which, ops: &[Op]| {
        let mut harness = Harness::new(which, settings.clone());
        if let Err(wrong) = harness.run(ops) {
            panic!("on {which:?}, {ops:#?}: {wrong}");
        }
        for (id, expected) in reads {
            assert_eq!(harness.reads(0, id).as_deref(), *expected, "{id} on {which:?}, {ops:#?}");
        }
        for (n, expected) in became.iter().enumerate() {
            assert_eq!(harness.became(n), *expected, "batch {n} on {which:?}, {ops:#?}");
        }
    };
    check(Which::Sled, ops);
    for which in [Which::Memory, Which::Forgetful] {
        check(which, ops);
        for at in 1..=ops.len() {
            let (before, after) = ops.split_at(at);
            for put_in in [
                &[restart(How::Crash)][..],
                &[restart(How::Checkpointed)],
                &[restart(How::StoreLost)],
                &[snapshot(1)],
                &[snapshot(99), restart(How::FromSnapshot)],
                &[fresh(99)],
                &[apply(1)],
                &[apply(99)],
            ] {
                check(which, &[before, put_in, after].concat());
            }
        }
    }
}

#[test]
fn a_later_row_of_a_batch_wins_over_an_earlier_one() {
    holds(
        settings(),
        &[one(site(Some(0), None, &[])), one(batch(Pc, &[(0, One), (1, One), (0, Two)]))],
        &[(id(Pc, 0), Some("a=22")), (id(Pc, 1), UNKNOWN)],
        &[&[Updated, NotFound, Updated]],
    );
}

#[test]
fn a_later_row_wins_also_when_the_two_name_two_linked_ids() {
    for [first, second] in [[0, 1], [1, 0]] {
        holds(
            settings(),
            &[
                one(site(Some(0), Some(3), &[])),
                one(site(Some(1), Some(3), &[])),
                one(batch(Pc, &[(first, One), (second, Two)])),
            ],
            &[(id(ThirdParty, 3), Some("a=22")), (id(Pc, 0), Some("a=22"))],
            &[&[Updated, Updated]],
        );
    }
}

#[test]
fn a_bind_after_a_batch_merges_what_the_batch_had_set() {
    holds(
        settings(),
        &[
            one(site(Some(0), None, &[(B, One)])),
            one(batch(Pc, &[(0, One), (1, One)])),
            one(site(Some(0), Some(3), &[])),
        ],
        &[(id(ThirdParty, 3), Some("a=1 b=1")), (id(Pc, 0), Some("a=1 b=1")), (id(Pc, 1), UNKNOWN)],
        &[&[Updated, NotFound]],
    );
}

#[test]
fn a_pending_row_stays_with_the_visitor_that_its_pc_id_leaves() {
    holds(
        settings(),
        &[
            one(site(Some(0), Some(2), &[])),
            one(batch(Pc, &[(0, One)])),
            one(site(Some(0), Some(3), &[(B, Two)])),
        ],
        &[(id(ThirdParty, 2), Some("a=1")), (id(ThirdParty, 3), Some("b=22")), (id(Pc, 0), Some("b=22"))],
        &[&[Updated]],
    );
}

#[test]
fn a_pending_row_does_not_come_back_after_an_erasure_and_a_rebirth() {
    for by in [Pc, ThirdParty] {
        holds(
            creating(),
            &[
                one(site(Some(0), Some(0), &[])),
                one(batch(by, &[(0, One), (1, One)])),
                one(Call::Erase { kind: Pc, who: 0 }),
                one(site(Some(0), Some(0), &[(B, Two)])),
            ],
            &[(id(Pc, 0), Some("b=22")), (id(ThirdParty, 0), Some("b=22")), (id(by, 1), Some("a=1"))],
            &[&[Updated, Created]],
        );
    }
}

#[test]
fn a_batch_and_right_behind_it_a_bind_in_one_group_come_in_that_order() {
    holds(
        settings(),
        &[
            one(site(Some(0), None, &[])),
            group(vec![
                batch(Pc, &[(0, One), (1, Two)]),
                site(Some(0), Some(3), &[]),
                update(3, &[(B, Two)]),
            ]),
        ],
        &[(id(ThirdParty, 3), Some("a=1 b=22")), (id(Pc, 0), Some("a=1 b=22"))],
        &[&[Updated, NotFound]],
    );
}

#[test]
fn a_later_mbox_write_beats_an_earlier_batch_row_and_a_later_row_an_earlier_write() {
    holds(
        settings(),
        &[
            one(site(Some(0), None, &[(A, Text::Long), (B, Text::Long)])),
            one(batch(Pc, &[(0, One)])),
            one(site(Some(0), None, &[(A, Two)])),
        ],
        &[(id(Pc, 0), Some(&format!("a=22 b={}", Text::Long.text())))],
        &[&[Updated]],
    );
}

#[test]
fn a_visitor_born_after_a_batch_is_not_touched_by_it() {
    for born in [site(Some(0), None, &[(B, One)]), site(Some(0), Some(3), &[(B, One)])] {
        holds(
            settings(),
            &[one(batch(Pc, &[(0, Two)])), one(born)],
            &[(id(Pc, 0), Some("b=1"))],
            &[&[NotFound]],
        );
    }
}

#[test]
fn overlapping_batches_of_one_instant_come_in_the_order_of_their_seqs() {
    for replaces in [false, true] {
        holds(
            Settings { replaces, ..settings() },
            &[
                one(site(Some(0), Some(0), &[(B, One)])),
                group(vec![batch(Pc, &[(0, One), (1, One)]), batch(ThirdParty, &[(0, Two)])]),
                one(site(Some(1), None, &[])),
            ],
            &[(id(Pc, 0), Some("a=22 b=1")), (id(Pc, 1), Some(""))],
            &[&[Updated, NotFound], &[Updated]],
        );
    }
}

#[test]
fn seqs_rise_over_a_start_with_a_clock_an_hour_back() {
    holds(
        settings(),
        &[
            one(site(Some(0), None, &[(A, One)])),
            Op::Restart { how: How::Crash, fate: 0, hour_back: true, settings: None },
            one(batch(Pc, &[(0, Two)])),
            one(site(Some(0), None, &[(B, Two)])),
        ],
        &[(id(Pc, 0), Some("a=22 b=22"))],
        &[&[Updated]],
    );
}

#[test]
fn single_updates_and_rows_for_unknown_visitors_create_nothing() {
    holds(
        settings(),
        &[one(update(0, &[(A, One)])), one(batch(ThirdParty, &[(0, One)])), one(update(0, &[(A, One)]))],
        &[(id(ThirdParty, 0), UNKNOWN)],
        &[&[NotFound]],
    );
}

/// The row was applied to the visitor that the link led to. That visitor expired and was created again without the link, and the
/// pending row then created another visitor under the pcId. The same happened if the sweeper removed the dead link.
#[test]
fn rows_that_went_through_a_link_create_nobody_once_it_is_dead() {
    for last in [Op::Mark, Op::Sweep] {
        holds(
            Settings { lifetime_ms: 2 * HOUR_MS, ..creating() },
            &[
                one(site(Some(0), Some(3), &[])),
                one(batch(Pc, &[(0, One)])),
                Op::Wait(2 * HOUR_MS),
                one(site(Some(1), Some(3), &[(B, Two)])),
                last,
            ],
            &[(id(Pc, 0), UNKNOWN), (id(ThirdParty, 3), Some("b=22"))],
            &[&[Updated]],
        );
    }
}

/// A link also dies if its id drops off a full list.
#[test]
fn rows_that_went_through_the_oldest_link_create_nobody_once_it_is_dropped() {
    holds(
        creating(),
        &[one(site(Some(0), Some(3), &[])), one(batch(Pc, &[(0, One)])), Op::Crowd { client: 0, who: 3 }],
        &[(id(Pc, 0), UNKNOWN), (id(ThirdParty, 3), Some("a=1"))],
        &[&[Updated]],
    );
}

/// The full list once dropped the pcId but kept the ECID that had come with it. When the ECID led to another visitor, erasing the
/// old visitor took the ECID from the new one.
#[test]
fn an_ecid_goes_with_the_pc_id_that_drops_off_a_full_list() {
    let with_ecid =
        || one(Call::Site { pc: Some(0), third_party: None, ecid: Some(0), sets: vec![(A, One)] });
    holds(
        settings(),
        &[
            one(site(Some(0), Some(3), &[])),
            with_ecid(),
            Op::Crowd { client: 0, who: 3 },
            with_ecid(),
            one(Call::Erase { kind: ThirdParty, who: 3 }),
        ],
        &[(id(Ecid, 0), Some("a=1")), (id(Pc, 0), Some("a=1")), (id(ThirdParty, 3), UNKNOWN)],
        &[],
    );
}

/// A rebuilt store applies complete batches once more, after the writes that came after them. Their outcomes were once read from
/// profiles that no longer showed them, and an erased visitor stopped the daemon.
#[test]
fn a_rebuilt_store_keeps_what_became_of_the_rows_of_complete_batches() {
    holds(
        settings(),
        &[
            one(site(Some(1), None, &[])),
            one(batch(Pc, &[(0, One), (1, One)])),
            apply(99),
            one(site(Some(0), None, &[(B, Two)])),
            one(Call::Erase { kind: Pc, who: 1 }),
            restart(How::StoreLost),
        ],
        &[(id(Pc, 0), Some("b=22")), (id(Pc, 1), UNKNOWN)],
        &[&[NotFound, Updated]],
    );
}

/// The journal's entry that a batch was complete was about the lost store. After a checkpoint of the new store it was once taken
/// for that store's, and the batch was missing.
#[test]
fn a_checkpoint_while_a_store_is_rebuilt_loses_no_batch() {
    holds(
        settings(),
        &[
            one(site(Some(0), None, &[])),
            one(batch(Pc, &[(0, One)])),
            apply(99),
            restart(How::StoreLost),
            Op::Checkpoint,
            restart(How::Crash),
        ],
        &[(id(Pc, 0), Some("a=1"))],
        &[&[Updated]],
    );
}

/// The journal has no entry for a swept profile, so after a crash or in a rebuilt store the expired profile is back, with its list.
/// Its pcId led to another visitor by then, and a write to the old visitor once took that visitor's row as its own.
#[test]
fn a_swept_visitor_that_comes_back_takes_no_rows_from_who_has_its_ids_now() {
    holds(
        Settings { lifetime_ms: 2 * HOUR_MS, ..settings() },
        &[
            one(site(Some(0), Some(0), &[])),
            Op::Wait(2 * HOUR_MS),
            Op::Sweep,
            Op::Commit(vec![]),
            one(site(Some(0), Some(1), &[])),
            restart(How::StoreLost),
            one(batch(Pc, &[(0, One)])),
            one(site(None, Some(0), &[])),
        ],
        &[(id(Pc, 0), Some("a=1")), (id(ThirdParty, 1), Some("a=1")), (id(ThirdParty, 0), Some(""))],
        &[&[Updated]],
    );
}

/// Its erasure does not erase another visitor either.
#[test]
fn a_swept_visitor_that_comes_back_takes_nobody_along_when_it_is_erased() {
    for third_party in [Some(1), None] {
        holds(
            Settings { lifetime_ms: 2 * HOUR_MS, ..settings() },
            &[
                one(site(Some(0), Some(0), &[])),
                Op::Wait(2 * HOUR_MS),
                Op::Sweep,
                Op::Commit(vec![]),
                one(site(Some(0), third_party, &[(A, One)])),
                restart(How::StoreLost),
                one(Call::Erase { kind: ThirdParty, who: 0 }),
            ],
            &[(id(Pc, 0), Some("a=1")), (id(ThirdParty, 0), UNKNOWN)],
            &[],
        );
    }
}

/// An erasure once answered "known" until the sweeper had removed the expired visitor. (The harness compares each answer with the
/// model's.)
#[test]
fn an_erasure_answers_of_who_has_expired_as_of_nobody_whether_or_not_the_sweeper_was_there() {
    for sweeps in [&[][..], &[Op::Sweep, Op::Commit(vec![])]] {
        let expire = [one(site(None, Some(0), &[(A, One)])), Op::Wait(2 * HOUR_MS)];
        let erase = [one(Call::Erase { kind: ThirdParty, who: 0 })];
        holds(
            Settings { lifetime_ms: 2 * HOUR_MS, ..settings() },
            &[&expire, sweeps, &erase].concat(),
            &[(id(ThirdParty, 0), UNKNOWN)],
            &[],
        );
    }
}

/// The row created a profile under an empty key, because the dead link there had been swept. In a rebuilt store the link is back,
/// and only the commit thread may replace it. The apply thread once took the row's known outcome for a sign that it had.
#[test]
fn a_row_that_created_where_a_dead_link_was_swept_creates_again_in_a_rebuilt_store() {
    holds(
        Settings { lifetime_ms: 2 * HOUR_MS, ..creating() },
        &[
            one(site(Some(0), Some(0), &[])),
            Op::Wait(2 * HOUR_MS),
            // The visitor, then the link.
            Op::Sweep,
            Op::Commit(vec![]),
            Op::Sweep,
            Op::Commit(vec![]),
            one(batch(Pc, &[(0, One)])),
            apply(99),
            restart(How::StoreLost),
        ],
        &[(id(Pc, 0), Some("a=1"))],
        &[&[Created]],
    );
}

/// A restart reads the journal from the oldest incomplete batch on. After it came a batch that was complete and past its retention,
/// which the checkpoint no longer listed. It once counted as incomplete, its file was gone, and the daemon did not start.
#[test]
fn a_batch_past_its_retention_is_not_missed_behind_an_older_one_that_is_pending() {
    let retire = || Op::Snapshot { steps: 99, rotate: false, retire: true, retention_over: true };
    holds(
        settings(),
        &[
            one(site(Some(0), None, &[])),
            // Clients take turns: the second one's batch is complete before the first one's second.
            group(vec![batch(Pc, &[(0, One)]), batch(Pc, &[(0, Two)])]),
            Op::Commit(vec![(1, batch(Pc, &[(0, One)]))]),
            apply(99),
            apply(99),
            retire(),
            retire(),
            restart(How::Crash),
            restart(How::FromSnapshot),
        ],
        &[(id(Pc, 0), Some("a=22"))],
        &[&[Updated], &[Updated], &[NotFound]],
    );
}

/// A fresh store leaves out the tombstones of keys that were erased when its making began. It once also left out a visitor that was
/// created and erased again before the copy reached it, and a batch from between brought the visitor back.
#[test]
fn a_visitor_erased_again_while_a_fresh_store_begins_does_not_come_back() {
    holds(
        creating(),
        &[
            one(site(Some(0), None, &[])),
            one(Call::Erase { kind: Pc, who: 0 }),
            fresh(1),
            one(site(Some(0), None, &[(B, One)])),
            one(batch(Pc, &[(0, One)])),
            one(Call::Erase { kind: Pc, who: 0 }),
            fresh(99),
            restart(How::Crash),
        ],
        &[(id(Pc, 0), UNKNOWN)],
        &[&[Updated]],
    );
}

/// A tombstone was once removed, because the batch that needed it was complete, before the snapshot reached it. But at the
/// snapshot's position the batch was incomplete, so a store made from it applied the batch once more and created the visitor.
#[test]
fn a_tombstone_stays_while_a_snapshot_is_taken_that_knows_an_older_batch_as_incomplete() {
    holds(
        creating(),
        &[
            one(batch(Pc, &[(0, One)])),
            one(site(Some(0), Some(3), &[])),
            Op::Crowd { client: 0, who: 3 },
            apply(99),
            Op::Sweep,
            Op::Commit(vec![]),
            restart(How::StoreLost),
            snapshot(1),
            apply(99),
            Op::Sweep,
            Op::Commit(vec![]),
            snapshot(9_999),
            restart(How::FromSnapshot),
        ],
        &[(id(Pc, 0), UNKNOWN), (id(ThirdParty, 3), Some("a=1"))],
        &[&[Created]],
    );
}

/// Rows of erased visitors were once overwritten in uploads that a rebuilt store still had to apply. Their outcomes were then read
/// from the filler.
#[test]
fn what_became_of_an_erased_visitor_s_rows_stays_if_the_store_is_lost_before_their_history_is() {
    let row = |who, text| Row::Good { who, hint: false, cells: vec![text] };
    let rows = vec![row(0, One), Row::BadEscape { who: 0 }, row(1, One), row(2, One), row(0, Two)];
    let batch = one_column(Pc, rows);
    holds(
        settings(),
        &[
            group(vec![site(Some(0), None, &[]), site(Some(2), None, &[])]),
            one(Call::Batch(batch)),
            apply(99),
            one(site(Some(1), None, &[])),
            group(vec![Call::Erase { kind: Pc, who: 0 }, Call::Erase { kind: Pc, who: 1 }]),
            fresh(99),
            restart(How::StoreLost),
        ],
        &[(id(Pc, 0), UNKNOWN), (id(Pc, 1), UNKNOWN), (id(Pc, 2), Some("a=1"))],
        &[&[Updated, Failed, NotFound, Updated, Updated]],
    );
}

/// Rows are overwritten by id, also rows that were applied to another visitor before the id led to the erased one.
#[test]
fn a_row_that_went_to_another_visitor_is_not_lost_with_the_erased_one_that_has_its_id_now() {
    holds(
        settings(),
        &[
            one(site(Some(0), Some(1), &[])),
            one(batch(Pc, &[(0, One)])),
            apply(99),
            one(site(Some(0), Some(2), &[])),
            one(Call::Erase { kind: ThirdParty, who: 2 }),
            fresh(99),
            restart(How::StoreLost),
        ],
        &[(id(Pc, 0), UNKNOWN), (id(ThirdParty, 1), Some("a=1"))],
        &[&[Updated]],
    );
}
