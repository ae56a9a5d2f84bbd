//! The sweeper removes, in small steps, what counts as absent already (R11). Expired profiles and links that lead nowhere become
//! tombstones, by a write that is journaled like any other, so neither a crash nor a rebuild brings them back. Once nothing needs the
//! tombstone any more, it goes too. Erased visitors are left to compaction (R12).
//!
//! Promises: nothing that it takes is missed. It takes only what no incomplete batch can meet: a value that every pending batch is
//! behind and that was expired at each pending batch's place; no link while a batch is pending; and only tombstones that no replay from
//! the last checkpoint can touch. A lifetime that is raised later does not bring back what was swept.

use crate::batch::queue::Batches;
use crate::batch::resolve::decoded;
use crate::engine::commit::Request;
use crate::engine::shared::thread_point;
use crate::engine::upkeep::hold::WouldGo;
use crate::engine::upkeep::state::Upkeep;
use crate::model::id::{ClientCode, Key};
use crate::model::profile::{Stored, StoredBytes};
use crate::model::seq::{Millis, Seq};
use crate::store::{ProfileStore, StoreError};
use crate::sync::Ordering;
use crate::telemetry;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many keys one step looks at.
const STEP_KEYS: usize = 256;
/// The pause between steps: about five thousand keys a second, a few per cent of one core.
const STEP_PAUSE: Duration = Duration::from_millis(50);
/// The first pass after a start reads the whole store, so that damage on the disk shows within minutes. Its pause is this
/// many times as long as the step before.
const FIRST_PASS_PAUSES: u32 = 9;
/// The pause before the first pass. The number of living profiles is known once that is through.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The pause between passes over the whole store.
const PASS_PAUSE: Duration = Duration::from_secs(60);

/// The bounds of a step.
pub struct Horizon<'h> {
    /// The time now.
    pub now: Millis,
    /// The highest seq that the last checkpoint covers; zero while a snapshot is taken.
    pub checkpoint: Seq,
    /// The pending batches.
    pub batches: &'h Batches,
    /// The lifetime of a client's profiles; none if the client is not served any more.
    pub lifetime_ms: &'h dyn Fn(&ClientCode) -> Option<u64>,
}

/// What a step did.
#[derive(Debug)]
pub struct Swept {
    /// The requests for the commit thread.
    pub requests: Vec<Request>,
    /// The values that they sweep, as the step read them.
    pub values: Vec<(ClientCode, Vec<StoredBytes>)>,
    /// How many values they sweep.
    pub expired: usize,
    /// How many tombstones the step removed.
    pub taken: usize,
    /// How many living profiles it met.
    pub living: u64,
    /// The oldest erasure that it met. Compaction has yet to remove its bytes.
    pub erasure: Option<Seq>,
    /// Where the next step begins; none at the end of the store.
    pub next: Option<Key>,
}

impl Swept {
    /// Leaves the expired visitors where they are, and counts them.
    fn keep(&mut self, would_go: &mut WouldGo) {
        self.requests.clear();
        for (client, values) in self.values.drain(..) {
            would_go.add(&client, &values);
        }
        self.expired = 0;
    }
}

/// Sweeps until the daemon stops.
pub(in crate::engine) fn run(upkeep: &Upkeep) {
    let (begun, shared) = (Instant::now(), &upkeep.shared);
    let (mut after, mut expired, mut taken, mut living) = (None, 0, 0, 0);
    let mut would_go = WouldGo::default();
    let (mut pause, mut first_pass, mut took) = (FIRST_PAUSE, true, Duration::ZERO);
    loop {
        let step_pause = if first_pass { STEP_PAUSE.min(took * FIRST_PASS_PAUSES) } else { STEP_PAUSE };
        shared.signals.wait(if after.is_some() { step_pause } else { pause });
        pause = PASS_PAUSE;
        thread_point("sweep-thread");
        if shared.signals.is_stopping() {
            return;
        }
        let began = Instant::now();
        let swept = upkeep.tombstones.take(|checkpoint| {
            let horizon = Horizon {
                now: shared.now(),
                checkpoint,
                batches: &shared.batches,
                lifetime_ms: &|client| shared.config().client(client).map(|settings| settings.lifetime_ms),
            };
            step(&*shared.store, &horizon, after.as_ref(), STEP_KEYS)
        });
        took = began.elapsed();
        if let Err(error) = &swept {
            shared.store.note_damage(error);
        }
        let held = upkeep.hold.left(shared.clock.passed());
        let asked = swept.map_err(|error| error.to_string()).and_then(|mut swept| {
            if held.is_some() {
                swept.keep(&mut would_go);
                upkeep.hold.set_kept(would_go.count());
            }
            let asked =
                swept.requests.into_iter().try_for_each(|one| upkeep.commit.ask_blocking(one).map(drop));
            asked.map_err(|error| error.to_string()).map(|()| {
                if let Some(erasure) = swept.erasure {
                    upkeep.commit.note_erasure(erasure.millis());
                }
                expired += swept.expired;
                taken += swept.taken;
                living += swept.living;
                if swept.next.is_none() || first_pass {
                    shared.health.gauges.live_profiles.store(living, Ordering::Relaxed);
                }
                if swept.next.is_none() {
                    if std::mem::take(&mut first_pass) {
                        shared.batches.names.all_read();
                        tracing::info!(
                            took_ms = telemetry::ms(begun.elapsed()),
                            living,
                            "all that the store holds was read"
                        );
                    }
                    let at = u64::try_from(shared.clock.passed().as_millis()).unwrap_or_default();
                    shared.health.gauges.live_profiles_at.store(at, Ordering::Relaxed);
                    std::mem::take(&mut would_go).tell(held);
                    living = 0;
                    if held.is_none() {
                        upkeep.hold.set_kept(0);
                    }
                }
                swept.next
            })
        });
        after = asked.unwrap_or_else(|error| {
            tracing::warn!(%error, "the sweeper stumbled; it begins again");
            (living, would_go) = (0, WouldGo::default());
            None
        });
        if after.is_none() && expired + taken > 0 {
            tracing::info!(expired, tombstones = taken, "swept");
            (expired, taken) = (0, 0);
        }
    }
}

/// Looks at the next keys, and removes what may go.
pub fn step(
    store: &dyn ProfileStore,
    horizon: &Horizon<'_>,
    after: Option<&Key>,
    keys: usize,
) -> Result<Swept, StoreError> {
    let page = store.scan(after, keys)?;
    let next = page.last().filter(|_| page.len() == keys).map(|(key, _)| key.clone());
    let (mut expired, mut taken, mut living, mut erasure) = (0, 0, 0, None);
    let mut dead: BTreeMap<ClientCode, Vec<(Key, StoredBytes)>> = BTreeMap::new();
    for (key, value) in page {
        let Ok(client) = ClientCode::new(key.client()) else { continue };
        match decoded(&key, &value)? {
            Stored::Tombstone { applied_seq, erased: true } => {
                erasure = Some(erasure.unwrap_or(applied_seq).min(applied_seq));
            }
            Stored::Profile(profile) => {
                // After a start nobody else has seen what the store holds.
                horizon.batches.names.note(&client, profile.names());
                let lifetime_ms = (horizon.lifetime_ms)(&client);
                living += u64::from(lifetime_ms.is_some_and(|most| !profile.expired(horizon.now, most)));
            }
            Stored::Tombstone { .. } | Stored::Link { .. } => {}
        }
        if !horizon.reclaims(store, &client, &key, &value)? {
        } else if !value.is_tombstone() {
            expired += 1;
            dead.entry(client).or_default().push((key, value));
        } else if store.put_if(&key, Some(&value), None)? {
            taken += 1;
        }
    }
    let (mut requests, mut values) = (vec![], vec![]);
    for (client, dead) in dead {
        let Some(lifetime_ms) = (horizon.lifetime_ms)(&client) else { continue };
        let (keys, were) = dead.into_iter().unzip();
        requests.push(Request::Sweep(client.clone(), keys, lifetime_ms));
        values.push((client, were));
    }
    Ok(Swept { requests, values, expired, taken, living, erasure, next })
}

impl Horizon<'_> {
    fn reclaims(
        &self,
        store: &dyn ProfileStore,
        client: &ClientCode,
        key: &Key,
        value: &StoredBytes,
    ) -> Result<bool, StoreError> {
        let stored = decoded(key, value)?;
        let Some(lifetime_ms) = (self.lifetime_ms)(client) else { return Ok(false) };
        let pending = self.batches.pending(client);
        let oldest = pending.first().map(|batch| batch.accepted.id.seq);
        if oldest.is_some_and(|oldest| stored.applied_seq() >= oldest) {
            return Ok(false);
        }
        Ok(match stored {
            Stored::Profile(profile) => {
                profile.expired(self.now, lifetime_ms)
                    && pending.iter().all(|batch| {
                        let rules = &batch.accepted.rules;
                        profile.expired(rules.seq.millis(), rules.lifetime_ms)
                    })
            }
            // The rows of a pending batch may have followed the link while it lived. Without it they would count as rows of
            // an unknown visitor, and create one.
            Stored::Link { target, .. } => pending.is_empty() && !self.leads_on(store, key, target)?,
            Stored::Tombstone { applied_seq, erased } => !erased && applied_seq <= self.checkpoint,
        })
    }

    /// Whether the tombstone of a swept visitor may go.
    pub(in crate::engine) fn reclaims_tombstone(
        &self,
        key: &Key,
        value: &StoredBytes,
    ) -> Result<bool, StoreError> {
        let Stored::Tombstone { applied_seq, erased: false } = decoded(key, value)? else { return Ok(false) };
        let Ok(client) = ClientCode::new(key.client()) else { return Ok(false) };
        let none_before =
            self.batches.pending(&client).first().is_none_or(|b| b.accepted.id.seq > applied_seq);
        Ok(applied_seq <= self.checkpoint && none_before)
    }

    /// Whether the profile at the end of a link, two links at most, lists the id.
    fn leads_on(&self, store: &dyn ProfileStore, id: &Key, mut target: Key) -> Result<bool, StoreError> {
        for _ in 0..2 {
            let Some(value) = store.get(std::slice::from_ref(&target))?.pop().flatten() else {
                return Ok(false);
            };
            match decoded(&target, &value)? {
                Stored::Profile(profile) => return Ok(profile.lists(id.kind(), id.id())),
                Stored::Link { target: further, .. } => target = further,
                Stored::Tombstone { .. } => return Ok(false),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::IdKind;
    use crate::model::profile::Profile;
    use crate::model::update::list_id;
    use crate::store::memory::MemoryStore;
    use crate::store::put_if_newer;

    const LIFETIME_MS: u64 = 1000;

    fn key(kind: IdKind, id: &str) -> Key {
        Key::new(&ClientCode::new("demo").unwrap(), kind, id)
    }

    fn at(ms: u64) -> Seq {
        Seq::from_parts(Millis(ms), 0)
    }

    /// What is left of a store after a sweep at `now` with the last checkpoint at `checkpoint`.
    fn left(values: &[(Key, Stored<'_>)], now: u64, checkpoint: u64) -> Vec<String> {
        let store = MemoryStore::default();
        for (key, value) in values {
            put_if_newer(&store, key, None, &value.encode()).unwrap();
        }
        let horizon = Horizon {
            now: Millis(now),
            checkpoint: at(checkpoint),
            batches: &Batches::default(),
            lifetime_ms: &|_| Some(LIFETIME_MS),
        };
        let (mut after, mut rounds) = (None, 0);
        // Three passes: a link is taken once its target is gone, and then its tombstone.
        while rounds < 3 {
            let swept = step(&store, &horizon, after.as_ref(), 2).unwrap();
            for (request, (_, values)) in swept.requests.into_iter().zip(swept.values) {
                let Request::Sweep(_, keys, LIFETIME_MS) = request else { panic!("{request:?}") };
                for (key, value) in keys.into_iter().zip(values) {
                    let applied_seq = value.applied_seq().unwrap();
                    let tombstone = Stored::Tombstone { applied_seq, erased: false };
                    put_if_newer(&store, &key, Some(value), &tombstone.encode()).unwrap();
                }
            }
            after = swept.next;
            rounds += usize::from(after.is_none());
        }
        store.scan(None, 100).unwrap().into_iter().map(|(key, _)| key.id().to_owned()).collect()
    }

    fn visitor(born: u64) -> [(Key, Stored<'static>); 2] {
        let mut profile = Profile::born_at(at(born));
        list_id(&mut profile, IdKind::Pc, "p", at(born));
        let target = key(IdKind::ThirdParty, "t");
        let link = Stored::Link { applied_seq: at(born), target: target.clone() };
        [(target, Stored::Profile(profile)), (key(IdKind::Pc, "p"), link)]
    }

    #[test]
    fn a_living_visitor_stays_and_an_expired_one_goes_with_its_links() {
        assert_eq!(left(&visitor(10), 1009, 5000), ["p", "t"]);
        assert_eq!(left(&visitor(10), 1010, 5000), Vec::<String>::new());
        assert_eq!(left(&visitor(10), 1010, 9), ["p", "t"], "their tombstones: a replay may still meet them");
    }

    #[test]
    fn those_who_live_are_counted() {
        let store = MemoryStore::default();
        for (key, value) in visitor(10).into_iter().chain([
            (key(IdKind::Pc, "old"), Stored::Profile(Profile::born_at(at(1)))),
            (key(IdKind::Pc, "young"), Stored::Profile(Profile::born_at(at(900)))),
            (key(IdKind::Pc, "gone"), Stored::Tombstone { applied_seq: at(9), erased: false }),
        ]) {
            put_if_newer(&store, &key, None, &value.encode()).unwrap();
        }
        let living = |now, served: bool| {
            let horizon = Horizon {
                now: Millis(now),
                checkpoint: at(0),
                batches: &Batches::default(),
                lifetime_ms: &|_| served.then_some(LIFETIME_MS),
            };
            step(&store, &horizon, None, 100).unwrap().living
        };
        assert_eq!(
            [living(1000, true), living(1001, true), living(1010, true), living(1000, false)],
            [3, 2, 1, 0]
        );
    }

    #[test]
    fn a_link_that_its_target_does_not_list_goes() {
        let [(target, _), link] = visitor(10);
        let reborn = (target, Stored::Profile(Profile::born_at(at(500))));
        assert_eq!(left(&[reborn, link], 600, 5000), ["t"]);
    }

    #[test]
    fn a_tombstone_goes_once_a_checkpoint_is_past_it() {
        let tombstone = |erased| [(key(IdKind::Pc, "p"), Stored::Tombstone { applied_seq: at(20), erased })];
        assert_eq!(left(&tombstone(false), 30, 19), ["p"]);
        assert_eq!(left(&tombstone(false), 30, 20), Vec::<String>::new());
        assert_eq!(left(&tombstone(true), 30, 20), ["p"], "what was erased is compaction's");
    }
}
