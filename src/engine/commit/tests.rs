//! What the committer promises where a store is slow, watched or damaged.

mod readable {
    use super::super::*;
    use crate::engine::types::{CallIds, SiteCall};
    use crate::journal::log::LogSettings;
    use crate::journal::log::{Log, Position};
    use crate::model::id::IdKind;
    use crate::model::id::{ClientCode, VisitorId};
    use crate::model::profile::Source;
    use crate::model::seq::{Clock, Millis, Seq};
    use crate::store::StoreError;
    use crate::store::double::{Call, Double, Script};
    use crate::store::memory::MemoryStore;
    use crate::store::swap::SwapStore;
    use crate::sync::{AtomicU64, Ordering};
    use std::sync::Arc;
    use std::sync::OnceLock;

    struct StandingClock;

    impl Clock for StandingClock {
        fn now(&self) -> Millis {
            Millis(1_000)
        }
    }

    /// Takes note, at each put, of the seq up to which all is said to be readable.
    #[derive(Default)]
    struct Watch {
        last_seq: OnceLock<Arc<AtomicU64>>,
        seen: crate::sync::Mutex<Vec<u64>>,
    }

    impl Script for Watch {
        fn before(&self, _: &MemoryStore, call: Call<'_>) -> Result<(), StoreError> {
            if let Call::Put(_) = call {
                let last = self.last_seq.get().map_or(0, |last| last.load(Ordering::Acquire));
                crate::sync::lock(&self.seen).push(last);
            }
            Ok(())
        }
    }

    /// Somebody who waited for a seq was told that it was there while the store had the state from before it.
    #[test]
    fn nobody_is_told_that_a_write_is_readable_before_the_store_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let none = |_, _, _: &[u8]| Ok::<_, crate::journal::log::LogError>(());
        let (log, _) = Log::open(folder.path(), LogSettings::default(), Position::START, none).unwrap();
        let store = Arc::new(Double::<Watch>::default());
        let clock = Arc::new(StandingClock);
        let mut committer = Committer::new(
            log,
            Arc::new(SwapStore::new(Arc::clone(&store) as _, crate::store::Reach::default())),
            Arc::default(),
            Seq::from_u64(7),
            clock,
        );
        store.script.last_seq.set(Arc::clone(&committer.last_seq)).unwrap();
        let call = |id: &str| {
            let ids = CallIds { pc: VisitorId::new(IdKind::Pc, id).ok(), ..CallIds::default() };
            let client = ClientCode::new("demo").unwrap();
            let call = SiteCall { client, ids, source: Source::Mbox, attributes: vec![] };
            Request::Site(
                call,
                WriteRules { lifetime_ms: 1 << 40, max_profile_bytes: 1 << 20, history_max: 16 },
            )
        };
        committer.commit(&mut [call("a"), call("b")].map(Ordered::from).into()).unwrap();
        assert_eq!(*crate::sync::lock(&store.script.seen), [7, 7]);
        assert_eq!(committer.last_seq.load(Ordering::Acquire), committer.seqs.last().get());
    }
}

mod damaged_store {
    use super::super::*;
    use crate::engine::types::{CallIds, SiteCall};
    use crate::journal::log::LogSettings;
    use crate::journal::log::{Log, Position};
    use crate::model::id::IdKind;
    use crate::model::id::{ClientCode, VisitorId};
    use crate::model::profile::Source;
    use crate::model::seq::{Clock, Millis, Seq};
    use crate::store::double::{Call, Double, Script};
    use crate::store::memory::MemoryStore;
    use crate::store::swap::SwapStore;
    use crate::store::{ProfileStore, Reach, StoreError};
    use std::collections::VecDeque;
    use std::sync::Arc;

    /// A store of which some is damaged: what is under keys that begin so can't be read, or not be written.
    fn damaged(unreadable: &'static str, unwritable: &'static str) -> Double<impl Script> {
        Double::new(move |_: &MemoryStore, call: Call<'_>| {
            let (doing, keys, which) = match call {
                Call::Get(keys) => ("read", keys, unreadable),
                Call::Put(key) => ("write", std::slice::from_ref(key), unwritable),
                _ => return Ok(()),
            };
            if keys.iter().any(|key| key.id().starts_with(which)) {
                return Err(StoreError::Damaged { doing, why: "as told".into() });
            }
            Ok(())
        })
    }

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Millis {
            Millis(1_000_000)
        }
    }

    fn client() -> ClientCode {
        ClientCode::new("demo").unwrap()
    }

    fn id(kind: IdKind, id: &str) -> VisitorId {
        VisitorId::new(kind, id).unwrap()
    }

    fn call(pc: &str, third_party: Option<&str>) -> Request {
        let ids = CallIds {
            pc: Some(id(IdKind::Pc, pc)),
            third_party: third_party.map(|it| id(IdKind::ThirdParty, it)),
            ecid: None,
            made: vec![],
        };
        let attributes = vec![("a".to_owned(), pc.to_owned())];
        let rules = WriteRules { lifetime_ms: 1 << 40, max_profile_bytes: 1 << 20, history_max: 16 };
        Request::Site(SiteCall { client: client(), ids, source: Source::Mbox, attributes }, rules)
    }

    fn committer(folder: &std::path::Path, store: impl ProfileStore + 'static) -> Committer {
        let opened = Log::open(folder, LogSettings { segment_bytes: 1 << 16 }, Position::START, |_, _, _| {
            Ok::<_, crate::journal::log::LogError>(())
        });
        let store = Arc::new(SwapStore::new(Arc::new(store), Reach::default()));
        Committer::new(opened.unwrap().0, store, Arc::default(), Seq::ZERO, Arc::new(Noon))
    }

    fn answers(committer: &mut Committer, requests: Vec<Request>) -> Vec<bool> {
        let mut requests = requests.into_iter().map(Ordered::from).collect();
        committer.commit(&mut requests).unwrap().iter().map(Result::is_ok).collect()
    }

    fn held(committer: &Committer, kind: IdKind, name: &str) -> Option<bool> {
        let key = id(kind, name).key(&client());
        Some(committer.store.get(&[key]).ok()?.pop().flatten().is_some())
    }

    /// It once ended the daemon. The first write of the refused call, `bad`'s of the pcId, must not be there either.
    #[test]
    fn who_writes_where_nothing_can_be_read_is_refused_and_the_rest_of_the_group_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut committer = committer(folder.path(), damaged("bad", "-"));
        let group = vec![call("p1", None), call("p1", Some("bad")), call("p2", Some("t2")), call("p1", None)];
        assert_eq!(answers(&mut committer, group), [true, false, true, true]);
        assert_eq!(held(&committer, IdKind::Pc, "p1"), Some(true));
        assert_eq!(held(&committer, IdKind::ThirdParty, "t2"), Some(true));
        assert_eq!(held(&committer, IdKind::ThirdParty, "bad"), None);
        assert!(committer.store.damage().is_some());
    }

    #[test]
    fn what_is_acknowledged_and_did_not_get_in_is_not_shown_until_a_store_made_again_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut committer = committer(folder.path(), damaged("-", "lost"));
        assert_eq!(answers(&mut committer, vec![call("lost", None), call("p", None)]), [true, true]);
        assert_eq!(
            held(&committer, IdKind::Pc, "lost"),
            None,
            "nothing was there before, and that is not so now"
        );
        assert_eq!(answers(&mut committer, vec![call("lost", None), call("p", None)]), [false, true]);
        assert!(committer.store.scan(None, 100).is_ok(), "it has no value under the key");
        let made = MadeAgain {
            store: Shared(Arc::new(MemoryStore::default())),
            position: Position::START,
            again: vec![],
        };
        let turn = committer.store.turn();
        let group = vec![call("q", None), Request::TakeOver(Box::new(made)), call("lost", None)];
        let mut group: VecDeque<Ordered> = group.into_iter().map(Ordered::from).collect();
        while !group.is_empty() {
            assert!(committer.commit(&mut group).unwrap().iter().all(Result::is_ok));
        }
        assert_eq!(committer.store.turn(), turn + 2);
        for pc in ["p", "q", "lost"] {
            assert_eq!(held(&committer, IdKind::Pc, pc), Some(true), "{pc}");
        }
        assert_eq!(committer.store.damage(), None);
    }
}
