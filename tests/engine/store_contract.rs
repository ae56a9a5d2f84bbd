//! The contract of a store, checked on every kind of store.

use profiled::model::batch::{BatchRules, ConsecutiveV2, EmptyValues, Outcome, RowReading};
use profiled::model::id::{ClientCode, IdKind, Key};
use profiled::model::profile::{Profile, Source, Stored, StoredBytes};
use profiled::model::seq::{Millis, Seq};
use profiled::model::update::{Cell, Row};
use profiled::store::memory::MemoryStore;
use profiled::store::sled::SledStore;
use profiled::store::{ProfileStore, Reach, Swapped, VisitorRows, put_if_newer};

/// Runs a check on every kind of store, and once more on a sled that was opened again.
fn on_each_store(check: impl Fn(&dyn ProfileStore)) {
    check(&MemoryStore::default());
    let folder = tempfile::tempdir().unwrap();
    check(&SledStore::open(folder.path(), 16 << 20).unwrap());
}

fn key(id: &str) -> Key {
    Key::new(&ClientCode::new("demo").unwrap(), IdKind::ThirdParty, id)
}

fn seq(number: u64) -> Seq {
    Seq::from_parts(Millis(number), 0)
}

fn rules(at: u64) -> BatchRules {
    BatchRules {
        seq: seq(at),
        source: Source::BatchV1,
        creates: false,
        consecutive_v2: ConsecutiveV2::Merge,
        empty_values: EmptyValues::Ignore,
        lifetime_ms: 1_000_000,
        max_profile_bytes: 50,
        reading: RowReading::default(),
        history_max: 16,
        as_of: None,
        undoes: None,
    }
}

fn newborn(at: u64) -> StoredBytes {
    Stored::Profile(Profile::born_at(seq(at))).encode()
}

fn get(store: &dyn ProfileStore, id: &str) -> Option<StoredBytes> {
    store.get(&[key(id)]).unwrap().pop().unwrap()
}

fn apply(store: &dyn ProfileStore, rules: &BatchRules, id: &str, values: &[&str]) -> Swapped {
    let cells: Vec<[Cell<'_>; 1]> =
        values.iter().map(|value| [Cell { attribute: 0, name: "a", value }]).collect();
    let rows: Vec<Row<'_, '_>> = cells.iter().map(|cells| Row { line: 2, cells }).collect();
    store.apply_rows(rules, &[VisitorRows { key: &key(id), rows: &rows }]).unwrap().pop().unwrap()
}

fn value_of_a(store: &dyn ProfileStore, id: &str) -> Option<String> {
    match get(store, id)?.decode().unwrap() {
        Stored::Profile(profile) => {
            profile.visible().iter().find(|a| a.name == "a").map(|a| a.value.to_owned())
        }
        _ => None,
    }
}

#[test]
fn a_put_takes_effect_only_where_it_expects_to() {
    on_each_store(|store| {
        let (one, two) = (newborn(1), newborn(2));
        assert!(!store.put_if(&key("x"), Some(&one), Some(&two)).unwrap(), "nothing is there");
        assert!(store.put_if(&key("x"), None, Some(&one)).unwrap());
        assert!(!store.put_if(&key("x"), None, Some(&two)).unwrap(), "something is there");
        assert!(store.put_if(&key("x"), Some(&one), Some(&two)).unwrap());
        assert_eq!(get(store, "x"), Some(two.clone()));
        assert!(store.put_if(&key("x"), Some(&two), None).unwrap());
        assert_eq!(get(store, "x"), None);
    });
}

#[test]
fn a_value_is_never_replaced_by_one_with_a_lower_applied_seq() {
    on_each_store(|store| {
        for (at, expected) in [(5, 5), (3, 5), (5, 5), (9, 9)] {
            put_if_newer(store, &key("x"), None, &newborn(at)).unwrap();
            assert_eq!(get(store, "x").unwrap().applied_seq(), Ok(seq(expected)), "after {at}");
        }
    });
}

#[test]
fn rows_fold_once_and_skip_unknown_visitors() {
    on_each_store(|store| {
        put_if_newer(store, &key("known"), None, &newborn(1)).unwrap();
        assert_eq!(apply(store, &rules(2), "known", &["1"]), Swapped::One(Outcome::Updated));
        assert_eq!(apply(store, &rules(2), "known", &["2"]), Swapped::AlreadyIn);
        assert_eq!(value_of_a(store, "known").as_deref(), Some("1"));
        assert_eq!(apply(store, &rules(3), "known", &["2", "3"]), Swapped::Many(vec![Outcome::Updated; 2]));
        assert_eq!(value_of_a(store, "known").as_deref(), Some("3"));
        assert_eq!(apply(store, &rules(2), "unknown", &["1"]), Swapped::One(Outcome::NotFound));
        assert_eq!(get(store, "unknown"), None, "a skipped row leaves nothing");
        let creates = BatchRules { creates: true, ..rules(4) };
        assert_eq!(
            apply(store, &creates, "unknown", &["1", "2"]),
            Swapped::Many(vec![Outcome::Created, Outcome::Updated])
        );
        assert_eq!(value_of_a(store, "unknown").as_deref(), Some("2"));
    });
}

#[test]
fn rows_whose_outcome_a_profile_would_not_show_are_left_to_the_commit_thread() {
    on_each_store(|store| {
        put_if_newer(store, &key("known"), None, &newborn(1)).unwrap();
        let before = get(store, "known");
        assert_eq!(apply(store, &rules(2), "known", &["1", &"x".repeat(60)]), Swapped::MustResolve);
        assert_eq!(get(store, "known"), before);
        let link = Stored::Link { applied_seq: seq(1), target: key("known") }.encode();
        put_if_newer(store, &key("linked"), None, &link).unwrap();
        let creates = BatchRules { creates: true, ..rules(2) };
        assert_eq!(apply(store, &creates, "linked", &["1"]), Swapped::MustResolve);
        assert_eq!(apply(store, &rules(2), "linked", &["1"]), Swapped::One(Outcome::NotFound));
        assert_eq!(get(store, "linked"), Some(link));
    });
}

#[test]
fn a_scan_gives_everything_once_in_key_order() {
    on_each_store(|store| {
        let mut ids: Vec<String> = (0..25).map(|n| format!("id{n}")).collect();
        for id in &ids {
            put_if_newer(store, &key(id), None, &newborn(1)).unwrap();
        }
        ids.sort();
        let (mut seen, mut after) = (vec![], None);
        loop {
            let page = store.scan(after.as_ref(), 7).unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            seen.extend(page.into_iter().map(|(key, _)| key.id().to_owned()));
        }
        assert_eq!(seen, ids);
    });
}

#[test]
fn concurrent_folds_and_puts_on_one_key_lose_nothing() {
    on_each_store(|store| {
        put_if_newer(store, &key("x"), None, &newborn(1)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (2..200).for_each(|at| drop(apply(store, &rules(at), "x", &[&at.to_string()]))));
            scope.spawn(|| {
                (200..400).for_each(|at| put_if_newer(store, &key("x"), None, &newborn(at)).unwrap())
            });
        });
        assert_eq!(get(store, "x").unwrap().applied_seq(), Ok(seq(399)));
    });
}

#[test]
fn sled_has_all_checkpointed_values_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), 16 << 20).unwrap();
    put_if_newer(&store, &key("x"), None, &newborn(7)).unwrap();
    store.checkpoint(Reach(3)).unwrap();
    drop(store);
    std::fs::write(folder.path().join("snap.0123456789ABCDEF.generating"), b"half").unwrap();
    let store = SledStore::open(folder.path(), 16 << 20).unwrap();
    assert_eq!(get(&store, "x"), Some(newborn(7)));
    assert_eq!(store.reach().unwrap(), Reach(3));
}

#[test]
fn the_reach_of_a_store_only_rises_and_is_no_value_in_it() {
    on_each_store(|store| {
        assert_eq!(store.reach().unwrap(), Reach(0));
        for (reach, then) in [(5, 5), (3, 5), (1 << 40, 1 << 40)] {
            store.checkpoint(Reach(reach)).unwrap();
            assert_eq!(store.reach().unwrap(), Reach(then));
        }
        assert_eq!(store.scan(None, 10).unwrap(), []);
    });
}
