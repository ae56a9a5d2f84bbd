//! Visitors by the value of an attribute.
//!
//! No index knows them, so profiles are read. Promises: one page reads [`KEYS_MAX`] keys at most, and ends after [`TIME_MAX`]; then it
//! says where to go on. The whole daemon reads one page at a time, on a thread that may block. A visitor counts as a lookup shows it,
//! with the rows of pending batches. Whoever has the value throughout is found. While batches are applied between two pages, a visitor
//! may come twice.
//!
//! A search begins with those whom pending batches create, the newest batch first, and goes on in the store. Who is born of a batch
//! that it has been through is left out there. A batch that is applied before the search is through with it is met in the store.

use crate::batch::found::IdPlace;
use crate::batch::pending::Pending;
use crate::batch::resolve::{ResolveError, decoded};
use crate::config::ClientSettings;
use crate::engine::error::EngineError;
use crate::engine::gates::Who;
use crate::engine::read::export::{PAGE_KEYS, WALK, refuse_held, was_there};
use crate::engine::read::lookup::hidden;
use crate::engine::read::search::{FoundVisitor, FoundVisitors};
use crate::engine::read::state::Reader;
use crate::engine::shared::blocking;
use crate::model::id::{ClientCode, IdKind, Key, VisitorId};
use crate::model::profile::{Profile, Stored};
use crate::model::seq::Seq;
use crate::store::ProfileStore as _;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many keys one page reads at most.
pub const KEYS_MAX: usize = 50_000;
/// How long one page may take, so that calls of the site hardly notice.
const TIME_MAX: Duration = Duration::from_millis(250);

/// The attribute, and the value that it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The attribute.
    pub name: String,
    /// The value, the whole of it.
    pub value: String,
}

impl Wanted {
    fn is_in(&self, profile: &Profile<'_>) -> bool {
        profile.visible().iter().any(|held| held.name == self.name && held.value == self.value)
    }
}

/// Where a search goes on. Written `TURN.FROM.TO.c.BATCH.PLACE` or `TURN.FROM.TO.s.KIND.ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The turn of the store in which the search began.
    turn: u64,
    /// It has been through all batches from this seq to that, among those that were pending.
    through: Option<(Seq, Seq)>,
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// Behind an id that this batch creates; at the batch's first id if there is none.
    Created(Seq, Option<IdPlace>),
    /// Behind this id in the store; an empty one stands before all of its kind.
    Stored(IdKind, String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = self.through.unwrap_or((Seq::ZERO, Seq::ZERO));
        write!(f, "{}.{from}.{to}.", self.turn)?;
        match &self.at {
            At::Created(batch, None) => write!(f, "c.{batch}."),
            At::Created(batch, Some(IdPlace::Hash(hash))) => write!(f, "c.{batch}.h{hash}"),
            At::Created(batch, Some(IdPlace::Bundle(number))) => write!(f, "c.{batch}.b{number}"),
            At::Stored(kind, id) => write!(f, "s.{}.{id}", kind.code()),
        }
    }
}

impl FromStr for Place {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let read = || {
            let mut parts = text.splitn(6, '.');
            let mut number = || parts.next()?.parse::<u64>().ok();
            let (turn, from, to) = (number()?, number()?, number()?);
            let (step, first, second) = (parts.next()?, parts.next()?, parts.next()?);
            let at = match step {
                "c" => At::Created(
                    Seq::from_u64(first.parse().ok()?),
                    match second.split_at_checked(1) {
                        None => None,
                        Some(("h", hash)) => Some(IdPlace::Hash(hash.parse().ok()?)),
                        Some(("b", number)) => Some(IdPlace::Bundle(number.parse().ok()?)),
                        Some(_) => return None,
                    },
                ),
                "s" => At::Stored(IdKind::from_code(first.parse().ok()?)?, second.to_owned()),
                _ => return None,
            };
            let through = (to > 0).then_some((Seq::from_u64(from), Seq::from_u64(to)));
            Some(Self { turn, through, at })
        };
        read().ok_or_else(|| {
            EngineError::Refused(format!("{text:?} is not where a search goes on: take the path in next"))
        })
    }
}

impl Reader {
    /// A page of the visitors with a value, from where an earlier page left off.
    pub(in crate::engine) async fn by_value(
        self: &Arc<Self>,
        who: &Who,
        client: &ClientCode,
        wanted: Wanted,
        from: Option<&str>,
        most: usize,
    ) -> Result<FoundVisitors, EngineError> {
        let settings = self.shared.settings(client)?;
        let from = from.map(str::parse).transpose()?;
        let turn = self.counts.take(who).await?;
        let (reader, client) = (Arc::clone(self), client.clone());
        let page = blocking(move || {
            let _turn = turn;
            let begun = Instant::now();
            let left = |looked_at: usize| looked_at < KEYS_MAX && begun.elapsed() < TIME_MAX;
            reader.by_value_now(&client, (&wanted, &settings), from, most, &left)
        });
        page.await
    }

    /// The same, as long as `goes_on` holds for the number of keys that were read. Blocks.
    fn by_value_now(
        &self,
        client: &ClientCode,
        (wanted, settings): (&Wanted, &ClientSettings),
        from: Option<Place>,
        most: usize,
        goes_on: &dyn Fn(usize) -> bool,
    ) -> Result<FoundVisitors, EngineError> {
        let (store, turn) = (&self.shared.store, self.shared.store.turn());
        let place = match from {
            Some(place) if place.turn == turn => place,
            Some(_) => {
                let why = "the store was rebuilt since this search began: begin it again";
                return Err(EngineError::Refused(why.into()));
            }
            None => Place { turn, through: None, at: At::Created(Seq::from_u64(u64::MAX), None) },
        };
        let mut search = Search {
            reader: self,
            client,
            wanted,
            settings,
            found: FoundVisitors::default(),
            keys: 0,
            most,
            goes_on,
            place,
        };
        let ended = search.created()?.is_continue() && search.stored()?.is_continue();
        let Search { mut found, place, .. } = search;
        if store.turn() != turn {
            return Err(EngineError::ExportBusy(
                "the store was rebuilt during the search: begin it again".into(),
            ));
        }
        found.next = (!ended).then(|| place.to_string());
        Ok(found)
    }
}

/// A search under way. `place` is always where it would go on.
struct Search<'s> {
    reader: &'s Reader,
    client: &'s ClientCode,
    wanted: &'s Wanted,
    settings: &'s ClientSettings,
    found: FoundVisitors,
    keys: usize,
    most: usize,
    goes_on: &'s dyn Fn(usize) -> bool,
    place: Place,
}

impl Search<'_> {
    /// Whether this page has room for one more. Each page gets on by one at least.
    fn has_room(&self) -> bool {
        self.found.visitors.len() < self.most && (self.keys == 0 || (self.goes_on)(self.keys))
    }

    /// Those whom pending batches create.
    fn created(&mut self) -> Result<ControlFlow<()>, EngineError> {
        let At::Created(first, mut behind) = self.place.at.clone() else {
            return Ok(ControlFlow::Continue(()));
        };
        let now = self.reader.now();
        let pending = self.reader.shared.batches.pending(self.client);
        refuse_held(&pending)?;
        let shows = |of: &&Arc<Pending>| {
            let accepted = &of.accepted;
            accepted.rules.creates && !hidden(accepted.id.seq, self.settings.batch_shows_after_ms, now)
        };
        let all: Vec<&Arc<Pending>> = pending.iter().filter(shows).collect();
        for pending in all.iter().rev().filter(|pending| pending.accepted.id.seq <= first) {
            let seq = pending.accepted.id.seq;
            if seq < first && behind.take().is_some() {
                // The batch that the page before was in is applied. Those before it in this search may come once more.
                self.place.through = None;
            }
            self.place.at = At::Created(seq, behind);
            if self.of_batch(pending, behind, &all)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let to = self.place.through.map_or(seq, |(_, to)| to);
            self.place.through = Some((seq, to));
            behind = None;
        }
        self.place.at = At::Stored(WALK.into_iter().next().unwrap_or(IdKind::Pc), String::new());
        Ok(ControlFlow::Continue(()))
    }

    /// Those whom one pending batch creates.
    fn of_batch(
        &mut self,
        batch: &Arc<Pending>,
        behind: Option<IdPlace>,
        creating: &[&Arc<Pending>],
    ) -> Result<ControlFlow<()>, EngineError> {
        let (kind, seq) = (batch.accepted.key_kind, batch.accepted.id.seq);
        let (mut last, mut fault, mut full) = (behind, None, false);
        let walked = batch.each_id_behind(behind, |place, id| {
            // Ids of one place stay on one page.
            if last != Some(place) && !self.has_room() {
                full = true;
                return ControlFlow::Break(());
            }
            last = Some(place);
            self.keys += 1;
            self.place.at = At::Created(seq, last);
            match self.created_so(&Key::new(self.client, kind, id), seq, creating) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    fault = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(error) = fault {
            return Err(error);
        }
        if let (Err(_), Some(why)) = (&walked, batch.held()) {
            return Err(EngineError::Held { batch: batch.accepted.id.to_string(), why: why.to_owned() });
        }
        walked.map_err(|error| EngineError::internal(ResolveError::upload(&batch.accepted.id, error)))?;
        Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Adds the visitor under a key, if this batch creates it.
    fn created_so(&mut self, key: &Key, seq: Seq, creating: &[&Arc<Pending>]) -> Result<(), EngineError> {
        self.reader.shared.signals.go_on()?;
        let there = was_there(&*self.reader.shared.store, key, creating);
        if there.map_err(|error| self.reader.shared.reported(error))? {
            return Ok(());
        }
        self.add(key, |born| born == seq)
    }

    /// Those whom the store has.
    fn stored(&mut self) -> Result<ControlFlow<()>, EngineError> {
        let At::Stored(mut kind, mut id) = self.place.at.clone() else {
            return Ok(ControlFlow::Continue(()));
        };
        let through = self.place.through;
        let is_new = |born: Seq| through.is_none_or(|(from, to)| born < from || born > to);
        loop {
            let shared = &self.reader.shared;
            shared.signals.go_on()?;
            let turn = shared.store.turn();
            // The batches first, the store second: a batch that is applied in between is then met in the store.
            let pending = shared.batches.pending(self.client);
            refuse_held(&pending)?;
            let page = shared.store.scan(Some(&Key::new(self.client, kind, &id)), PAGE_KEYS);
            let page = page.map_err(|error| shared.reported(error))?;
            // Without pending rows a profile shows as it is stored.
            let as_stored = pending.is_empty() && turn.is_multiple_of(2) && shared.store.turn() == turn;
            let of_kind = |key: &Key| key.client() == self.client.as_str() && key.kind() == kind;
            let mut ended = page.len() < PAGE_KEYS;
            for (key, value) in &page {
                if !of_kind(key) {
                    ended = true;
                    break;
                }
                if !self.has_room() {
                    return Ok(ControlFlow::Break(()));
                }
                self.keys += 1;
                let stored = decoded(key, value).map_err(|error| self.reader.shared.reported(error))?;
                // Each visitor is met at its own key.
                if let Stored::Profile(profile) = stored {
                    if as_stored && !self.wanted.is_in(&profile) {
                        self.found.looked_at += 1;
                    } else {
                        drop(profile);
                        self.add(key, is_new)?;
                    }
                }
                key.id().clone_into(&mut id);
                self.place.at = At::Stored(kind, id.clone());
            }
            if ended {
                let Some(next) = WALK.into_iter().skip_while(|other| *other != kind).nth(1) else {
                    return Ok(ControlFlow::Continue(()));
                };
                (kind, id) = (next, String::new());
                self.place.at = At::Stored(kind, String::new());
            }
        }
    }

    /// Adds the visitor whose own key this is, if it has the value.
    fn add(&mut self, key: &Key, born_so: impl Fn(Seq) -> bool) -> Result<(), EngineError> {
        let Ok(id) = VisitorId::new(key.kind(), key.id()) else { return Ok(()) };
        self.found.looked_at += 1;
        let shown = self.reader.shown_now(self.client, &id, self.settings, |canonical, profile| {
            let found = canonical == key && born_so(profile.born) && self.wanted.is_in(profile);
            found.then(|| (profile.last_active, profile.visible().len()))
        })?;
        if let Some((last_active, attributes)) = shown.flatten() {
            let (canonical, last_call) = (id.clone(), None);
            self.found.visitors.push(FoundVisitor { id, canonical, last_active, last_call, attributes });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let seq = Seq::from_u64;
        for (turn, through, at) in [
            (0, None, At::Created(seq(u64::MAX), None)),
            (2, Some((seq(5), seq(9))), At::Created(seq(4), Some(IdPlace::Hash(u64::MAX)))),
            (4, Some((seq(5), seq(5))), At::Created(seq(4), Some(IdPlace::Bundle(0)))),
            (0, None, At::Stored(IdKind::Ecid, String::new())),
            (0, None, At::Stored(IdKind::ThirdParty, "crm.1.s.2..".into())),
        ] {
            let place = Place { turn, through, at };
            assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
        }
        for text in ["", "crm-1", "0.0.0.c.1.x", "0.0.0.s.9.a", "0.0.0.d.1.", "x.0.0.s.1.a", "0.0.0.c.1.h"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
