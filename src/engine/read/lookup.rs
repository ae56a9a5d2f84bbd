//! A visitor as of now: the stored profile, with the visitor's pending rows applied.
//!
//! Promises: a lookup waits for nobody, sees a batch from the moment it is acknowledged, and never shows a state that was at no time
//! there.

use crate::batch::pending::Pending;
use crate::batch::queue::Batches;
use crate::batch::resolve::{Noted, ResolveError, View, decoded, resolve};
use crate::config::ClientSettings;
use crate::durable::point;
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::read::state::Reader;
use crate::engine::shared::blocking;
use crate::engine::types::{Visitor, VisitorAttribute, VisitorChange, VisitorHistory};
use crate::model::author::Author;
use crate::model::batch::BatchId;
use crate::model::id::{ClientCode, Key, VisitorId};
use crate::model::profile::Source;
use crate::model::profile::{Attribute, Earlier, Profile, Stored};
use crate::model::seq::{Millis, Seq};
use crate::store::swap::SwapStore;
use crate::store::{ProfileStore, StoreError};
use std::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a lookup begins again because a bind moved the visitor meanwhile, or a batch was completed.
const LOOKUP_TRIES_MAX: usize = 100;

/// How long a caller waits for a write that a lookup is to show, and how often it looks.
const SEQ_WAIT_MAX: Duration = Duration::from_secs(5);
const SEQ_LOOK: Duration = Duration::from_millis(5);
/// How often a lookup looks whether a rebuilt store has taken over.
const TURN_LOOK: Duration = Duration::from_millis(1);

/// Whether a batch with this seq is younger than `shows_after_ms`, so that no lookup shows it yet.
pub(in crate::engine) fn hidden(seq: Seq, shows_after_ms: u64, now: Millis) -> bool {
    shows_after_ms > 0 && now < seq.millis().plus(shows_after_ms)
}

/// Looks a visitor up: the stored profile, with the visitor's pending rows applied.
pub fn look_up(
    store: &dyn ProfileStore,
    batches: &Batches,
    client: &ClientCode,
    id: &VisitorId,
    now: Millis,
    lifetime_ms: u64,
) -> Result<Option<Visitor>, ResolveError> {
    let shows = Shows { now, lifetime_ms, after_ms: 0 };
    let found = look_up_as(store, batches, client, id, shows, |canonical, profile| {
        Visitor::of(client, canonical, profile, profile.visible(), lifetime_ms)
    });
    found.map(Option::flatten)
}

/// Looks a visitor up as it was after all writes up to a place in the order: `None` if it is unknown now, and an error with
/// the earliest place that can be asked for if its history does not go back so far.
pub fn look_up_at(
    store: &dyn ProfileStore,
    batches: &Batches,
    client: &ClientCode,
    id: &VisitorId,
    (now, lifetime_ms, at): (Millis, u64, Seq),
) -> Result<Option<Result<Option<Visitor>, Seq>>, ResolveError> {
    let shows = Shows { now, lifetime_ms, after_ms: 0 };
    look_up_as(store, batches, client, id, shows, |canonical, profile| {
        Visitor::at(client, canonical, profile, lifetime_ms, at)
    })
}

/// What lookups show of a client.
#[derive(Debug, Clone, Copy)]
struct Shows {
    now: Millis,
    /// How long a profile lives.
    lifetime_ms: u64,
    /// How old a batch must be.
    after_ms: u64,
}

/// Looks a visitor up, for a client whose batches show as late as Adobe's: rows of batches younger than `after_ms` are
/// left out. Only lookups do that. A write to the visitor applies them at their place in the order (R4), and from then on
/// they show. `show` makes the result, from the profile and the key that it is kept under.
fn look_up_as<T>(
    store: &dyn ProfileStore,
    batches: &Batches,
    client: &ClientCode,
    id: &VisitorId,
    Shows { now, lifetime_ms, after_ms }: Shows,
    show: impl Fn(&Key, &Profile<'_>) -> T,
) -> Result<Option<T>, ResolveError> {
    let key = id.key(client);
    for _ in 0..LOOKUP_TRIES_MAX {
        // The pending rows first, the store second: a batch that is applied in between is then met in the store.
        let mut pending = batches.pending(client);
        if after_ms > 0 {
            let shown = |batch: &&Arc<Pending>| !hidden(batch.accepted.id.seq, after_ms, now);
            pending = pending.iter().filter(shown).cloned().collect();
        }
        let mut view = View::new(store);
        resolve(&mut view, &pending, &key, &mut Noted::nothing())?;
        let canonical = view.canonical(&key)?;
        let value = view.get(&canonical)?;
        let stored = value.as_ref().map(|value| decoded(&canonical, value)).transpose()?;
        let dead_link = canonical == key && view.was_link(&key)?;
        // A bind may have moved a link that leads nowhere while we looked.
        if dead_link && !view.links_stand(&key)? {
            continue;
        }
        // Once a batch is complete, writes no longer resolve its rows, and the tombstones that kept them out may go. If a
        // write ended the link's life meanwhile, or a tombstone went, the rows would create a visitor here that never was.
        // (The applied seq of a value tells which rows it has, however many batches are completed meanwhile.)
        let made_a_visitor = matches!(stored, Some(Stored::Profile(_)));
        let complete = |batch: &Arc<Pending>| batch.progress.completed().is_some();
        if made_a_visitor && (dead_link || view.was_nothing(&canonical)) && pending.iter().any(complete) {
            continue;
        }
        return Ok(match stored {
            Some(Stored::Profile(profile)) if !profile.expired(now, lifetime_ms) => {
                Some(show(&canonical, &profile))
            }
            _ => None,
        });
    }
    let why = format!("it was written to under each of {LOOKUP_TRIES_MAX} tries");
    Err(StoreError::Failed { doing: "show a visitor", why }.into())
}

impl Reader {
    /// Looks a visitor up.
    pub(in crate::engine) async fn visitor(
        self: &Arc<Self>,
        client: &ClientCode,
        id: &VisitorId,
    ) -> Result<Option<Visitor>, EngineError> {
        let found = self.shown(client, id, |client, canonical, profile, lifetime_ms| {
            Visitor::of(client, canonical, profile, profile.visible(), lifetime_ms)
        });
        let mut found = found.await?.flatten();
        if let Some(visitor) = &mut found {
            self.note_senders(
                client,
                visitor.attributes.iter_mut().map(|it| (it.seq, it.source, &mut it.by)),
            );
        }
        Ok(found)
    }

    /// Notes who sent the batches among these writes, as far as the batches are kept.
    fn note_senders<'w>(
        &self,
        client: &ClientCode,
        writes: impl Iterator<Item = (Seq, Source, &'w mut Author)>,
    ) {
        let mut known: HashMap<Seq, Author> = HashMap::new();
        for (seq, _, by) in writes.filter(|(_, source, _)| source.is_batch()) {
            *by = *known.entry(seq).or_insert_with(|| {
                let batch = self.shared.batches.get(&BatchId { client: client.clone(), seq });
                batch.map(|batch| batch.accepted.by).unwrap_or_default()
            });
        }
    }

    /// Looks a visitor up as it was after all writes up to a place in the order.
    pub(in crate::engine) async fn visitor_at(
        self: &Arc<Self>,
        client: &ClientCode,
        id: &VisitorId,
        at: Seq,
    ) -> Result<Option<Visitor>, EngineError> {
        let found = self.shown(client, id, move |client, canonical, profile, lifetime_ms| {
            Visitor::at(client, canonical, profile, lifetime_ms, at)
        });
        let then = found.await?.unwrap_or(Ok(None));
        let mut then = then.map_err(|since| EngineError::NotKept { at, since })?;
        if let Some(visitor) = &mut then {
            self.note_senders(
                client,
                visitor.attributes.iter_mut().map(|it| (it.seq, it.source, &mut it.by)),
            );
        }
        Ok(then)
    }

    /// What a visitor's attributes were, as far as its profile keeps it.
    pub(in crate::engine) async fn history(
        self: &Arc<Self>,
        client: &ClientCode,
        id: &VisitorId,
    ) -> Result<Option<VisitorHistory>, EngineError> {
        let mut found = self.shown(client, id, |_, _, profile, _| VisitorHistory::of(profile)).await?;
        if let Some(history) = &mut found {
            self.note_senders(client, history.changes.iter_mut().map(|it| (it.seq, it.source, &mut it.by)));
        }
        Ok(found)
    }

    async fn shown<T: Send + 'static>(
        self: &Arc<Self>,
        client: &ClientCode,
        id: &VisitorId,
        show: impl Fn(&ClientCode, &Key, &Profile<'_>, u64) -> T + Send + 'static,
    ) -> Result<Option<T>, EngineError> {
        let settings = self.shared.settings(client)?;
        let (reader, client, id) = (Arc::clone(self), client.clone(), id.clone());
        let began = Instant::now();
        let found = blocking(move || {
            point("lookup").or_internal()?;
            reader.shown_now(&client, &id, &settings, |canonical, profile| {
                show(&client, canonical, profile, settings.lifetime_ms)
            })
        });
        let found = found.await;
        self.shared.metrics.looked_up(began.elapsed());
        found
    }

    /// Looks a visitor up, by these settings of its client. Blocks.
    pub(super) fn shown_now<T>(
        &self,
        client: &ClientCode,
        id: &VisitorId,
        settings: &ClientSettings,
        show: impl Fn(&Key, &Profile<'_>) -> T,
    ) -> Result<Option<T>, EngineError> {
        let (shared, lifetime_ms) = (&self.shared, settings.lifetime_ms);
        let shows = Shows { now: self.now(), lifetime_ms, after_ms: settings.batch_shows_after_ms };
        let found = at_one_turn(&shared.store, || {
            look_up_as(&*shared.store, &shared.batches, client, id, shows, &show)
        });
        found.map_err(|error| shared.reported(error))
    }

    /// Waits until everything up to a place in the order is readable, but not for long: what is acknowledged is readable.
    pub(in crate::engine) async fn wait_for(&self, seq: Seq) -> Result<(), EngineError> {
        let begun = tokio::time::Instant::now();
        let wait_ms = SEQ_WAIT_MAX.as_millis().try_into().unwrap_or(u64::MAX);
        while self.commit.last_seq() < seq {
            // The clocks of several nodes need not agree.
            let alone = self.commit.node().is_none();
            if alone && seq.millis() > self.shared.now().plus(wait_ms) {
                return Err(EngineError::Refused(format!(
                    "no write has the seq {seq} yet: it lies in the future"
                )));
            }
            if begun.elapsed() >= SEQ_WAIT_MAX {
                let seconds = SEQ_WAIT_MAX.as_secs();
                return Err(EngineError::NotYet(format!(
                    "no write had the seq {seq} within {seconds} seconds"
                )));
            }
            tokio::time::sleep(SEQ_LOOK).await;
        }
        Ok(())
    }

    /// From when on lookups show a batch that is not complete; none where they show it already.
    pub(in crate::engine) fn shows_from(&self, batch: &BatchId) -> Option<Millis> {
        let after_ms =
            self.shared.settings(&batch.client).map_or(0, |settings| settings.batch_shows_after_ms);
        hidden(batch.seq, after_ms, self.shared.now()).then(|| batch.seq.millis().plus(after_ms))
    }
}

/// Looks at the batches and the store as they are at one turn of the store, that is, not across a rebuilt store's take-over.
///
/// The turn counts take-overs: [`SwapStore::take_over`] raises it to an odd number, publishes the batches whose rows the rebuilt
/// store lacks, puts that store in use, and raises the turn to the next even number.
///
/// *What it gives is one state.* It gives a result only if the turn was the same even number before and after the look. The turn
/// never falls, so it was that number throughout, and the whole look met one store together with the batches that belong to it. A
/// look across a take-over could take the list of batches from before it, read the new store behind it, and miss rows that only
/// the batches published in between bring back.
///
/// *It ends.* It looks again only if a take-over ran during the look. A take-over does no I/O and waits only for single
/// reads to end, so the turn is even again within a moment; if the commit thread dies in it, the process ends. The next take-over needs a whole rebuild of the store first, which takes far longer
/// than a look: it reads a snapshot and the journal. So in practice it looks twice at most. Another error of the look is a result
/// like any other, and ends it.
fn at_one_turn<T>(store: &SwapStore, look: impl Fn() -> Result<T, ResolveError>) -> Result<T, ResolveError> {
    loop {
        let turn = store.turn();
        let found = look();
        if turn.is_multiple_of(2) && store.turn() == turn {
            return found;
        }
        std::thread::sleep(TURN_LOOK);
    }
}

impl Visitor {
    /// The visitor as it was after all writes up to `at`; an error with the earliest place that is known, if that is later.
    fn at(
        client: &ClientCode,
        canonical: &Key,
        profile: &Profile<'_>,
        lifetime_ms: u64,
        at: Seq,
    ) -> Result<Option<Self>, Seq> {
        if at < profile.born {
            return Ok(None);
        }
        let visitor = Self::of(client, canonical, profile, profile.visible_at(at)?, lifetime_ms);
        Ok(visitor.map(|visitor| Self { seq: at.min(visitor.seq), ..visitor }))
    }

    fn of(
        client: &ClientCode,
        canonical: &Key,
        profile: &Profile<'_>,
        attributes: Vec<Attribute<'_>>,
        lifetime_ms: u64,
    ) -> Option<Self> {
        let some = |seq: Seq| (seq > Seq::ZERO).then_some(seq);
        let attribute = |a: Attribute<'_>| VisitorAttribute {
            name: a.name.to_owned(),
            value: a.value.to_owned(),
            seq: a.seq,
            source: a.source,
            as_of: a.as_of,
            by: profile.author(a.seq),
        };
        Some(Self {
            client: client.clone(),
            canonical: VisitorId::new(canonical.kind(), canonical.id()).ok()?,
            linked: profile
                .ids
                .iter()
                .filter_map(|linked| VisitorId::new(linked.kind, linked.id).ok())
                .collect(),
            born: profile.born,
            last_site: some(profile.last_site),
            last_batch: some(profile.last_batch),
            seq: profile.last_write,
            last_active: profile.last_active,
            expires: profile.last_active.plus(lifetime_ms),
            attributes: attributes.into_iter().map(attribute).collect(),
        })
    }
}

impl VisitorHistory {
    fn of(profile: &Profile<'_>) -> Self {
        let mut of_names: BTreeMap<&str, Vec<Earlier<'_>>> = BTreeMap::new();
        for value in profile.history.values() {
            of_names.entry(value.name).or_default().push(value);
        }
        let visible = profile.visible();
        for held in &visible {
            let Attribute { name, value, seq, source, .. } = *held;
            // It has no end yet.
            let now = Earlier { name, value, seq, source, until: Seq::from_u64(u64::MAX), by: source };
            of_names.entry(name).or_default().push(now);
        }
        let mut changes: Vec<VisitorChange> =
            of_names.iter().flat_map(|(name, values)| changes_of(name, values)).collect();
        changes.iter_mut().for_each(|change| change.by = profile.author(change.seq));
        changes.sort_by(|a, b| (b.seq, &a.name).cmp(&(a.seq, &b.name)));
        Self { since: profile.history.since(), seq: profile.last_write, changes }
    }
}

/// The changes of one attribute, in no order: one where each value begins, and one where a value ends and none begins. Then the
/// attribute was removed, or a value that a layer had covered came to light again (R7).
fn changes_of(name: &str, values: &[Earlier<'_>]) -> Vec<VisitorChange> {
    let text = |value: &Earlier<'_>| value.value.to_owned();
    let begun: BTreeSet<Seq> = values.iter().map(|value| value.seq).collect();
    let ended: BTreeMap<Seq, &Earlier<'_>> = values.iter().map(|value| (value.until, value)).collect();
    // A value that a layer covered for a while is there twice, with two ends.
    let mut changes: BTreeMap<Seq, VisitorChange> = BTreeMap::new();
    for value in values {
        changes.entry(value.seq).or_insert_with(|| VisitorChange {
            name: name.to_owned(),
            before: ended.get(&value.seq).map(|value| text(value)),
            after: Some(text(value)),
            seq: value.seq,
            source: value.source,
            by: Author::default(),
        });
    }
    let over = ended.iter().filter(|(until, _)| **until < Seq::from_u64(u64::MAX) && !begun.contains(until));
    for (until, value) in over {
        let then = values.iter().filter(|value| value.was_there_at(*until)).min_by_key(|value| value.until);
        let change = VisitorChange {
            name: name.to_owned(),
            before: Some(text(value)),
            after: then.map(text),
            seq: *until,
            source: value.by,
            by: Author::default(),
        };
        changes.insert(*until, change);
    }
    changes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pending::Pending;
    use crate::journal::log::Position;
    use crate::model::batch::Counts;
    use crate::model::id::IdKind;
    use crate::model::update::list_id;
    use crate::store::double::{Call, Double};
    use crate::store::memory::MemoryStore;
    use crate::store::put_if_newer;

    /// Found by the schedule explorer: the lookup had its list of batches from before.
    #[test]
    fn a_tombstone_that_goes_under_a_lookup_with_the_batch_it_kept_out_makes_no_visitor() {
        let folder = tempfile::tempdir().unwrap();
        let batches = Batches::default();
        let id = VisitorId::new(IdKind::Pc, "p").unwrap();
        let mut batch = Pending::of_text(folder.path(), "demo", 2, "batch=pcId,a\np,1\n");
        Arc::get_mut(&mut batch.accepted).unwrap().rules.creates = true;
        batches.publish(Arc::new(batch), Position::START);
        let key = id.key(&client());
        // At the first read all batches are complete, and the tombstone is swept.
        let meddle = |store: &MemoryStore, call: Call<'_>| {
            if !matches!(call, Call::Get(_)) {
                return Ok(());
            }
            for batch in batches.pending(&client()).iter() {
                batches.complete(&batch.accepted.id, Counts::default(), Millis(0));
            }
            let tombstone = store.get(std::slice::from_ref(&key))?.pop().flatten();
            store.put_if(&key, tombstone.as_ref(), None).map(drop)
        };
        let store = Double::new(meddle);
        let tombstone = Stored::Tombstone { applied_seq: Seq::from_u64(3), erased: false };
        put_if_newer(&store.store, &key, None, &tombstone.encode()).unwrap();
        assert_eq!(look_up(&store, &batches, &client(), &id, Millis(1), 1 << 40).unwrap(), None);
    }

    fn client() -> ClientCode {
        ClientCode::new("demo").unwrap()
    }

    #[test]
    fn a_lookup_goes_on_however_many_batches_are_completed_under_it() {
        let folder = tempfile::tempdir().unwrap();
        let batches = Batches::default();
        // Another batch is complete at every read.
        let complete = |_: &MemoryStore, call: Call<'_>| {
            if let (Call::Get(_), Some(first)) = (call, batches.pending(&client()).first()) {
                batches.complete(&first.accepted.id, Counts::default(), Millis(0));
            }
            Ok(())
        };
        let store = Double::new(complete);
        let ids = [IdKind::ThirdParty, IdKind::Pc].map(|kind| VisitorId::new(kind, "v").unwrap());
        let [canonical, linked] = ids.each_ref().map(|id| id.key(&client()));
        let mut profile = Profile::born_at(Seq::from_u64(1));
        list_id(&mut profile, IdKind::Pc, "v", Seq::from_u64(1));
        let link = Stored::Link { applied_seq: Seq::from_u64(1), target: canonical.clone() };
        for (key, value) in [(canonical, Stored::Profile(profile)), (linked, link)] {
            put_if_newer(&store.store, &key, None, &value.encode()).unwrap();
        }
        let last = 5 * LOOKUP_TRIES_MAX as u64;
        for seq in 2..=last {
            let text = format!("batch=pcId,a\nv,{seq}\n");
            let batch = Pending::of_text(folder.path(), "demo", seq, &text);
            batches.publish(Arc::new(batch), Position::START);
        }
        for id in &ids {
            let found = look_up(&store, &batches, &client(), id, Millis(1), 1 << 40).unwrap().unwrap();
            assert_eq!(found.attributes.first().map(|a| a.value.clone()), Some(last.to_string()), "{id:?}");
        }
    }
}
