//! All visitors of a client, one after the other, as lookups show them: those in the store, and those whom rows of pending batches
//! create, however far applying is.
//!
//! Promises: every visitor that lives throughout is shown. Memory stays small, whatever the store holds and whatever is pending. Both
//! are read piece by piece on a thread that may block, and nobody is waited for. The export is no snapshot of one instant: each visitor
//! is as of the moment at which it is looked up, and a visitor that logs in meanwhile may be shown twice, the second time complete.
//!
//! A visitor whom a batch created has that batch's seq as its birth, under an id that one of its rows names. So those who are born of
//! the batches that are pending when the walk begins are found by these batches' rows alone, and all others in the store. However far
//! applying gets meanwhile, nobody is missed and nobody is met twice.

use crate::batch::csv::write::{Cells, write_cell, write_header};
use crate::batch::csv::{HEADER_BYTES_MAX, ROW_BYTES_MAX};

use crate::batch::pending::Pending;
use crate::batch::pending_list::PendingList;
use crate::batch::queue::Batches;
use crate::batch::resolve::{ResolveError, decoded};
use crate::engine::commit::CommitHandle;
use crate::engine::error::EngineError;
use crate::engine::gates::{Slot, Who};
use crate::engine::read::lookup::look_up;
use crate::engine::read::state::Reader;
use crate::engine::shared::Shared;
use crate::engine::types::Visitor;
use crate::model::id::{ClientCode, IdKind, Key, VisitorId};
use crate::model::profile::{Profile, Stored};
use crate::model::seq::{Millis, Seq};
use crate::store::{ProfileStore, StoreError};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The most attributes in a CSV file: each is a column in every row.
pub const COLUMNS_MAX: usize = 10_000;
/// How many keys are read at once.
pub(super) const PAGE_KEYS: usize = 64;
/// The kinds of ids, in the order of the walk. Profiles move only from an earlier kind to a later one (R2), so the walk
/// misses none.
pub(super) const WALK: [IdKind; 3] = [IdKind::Ecid, IdKind::Pc, IdKind::ThirdParty];

/// An export that may begin.
pub struct Export {
    shared: Arc<Shared>,
    commit: Arc<CommitHandle>,
    client: ClientCode,
    lifetime_ms: u64,
    /// Everything up to this seq is in it, and perhaps more.
    pub seq: Seq,
    place: Slot,
}

/// The columns of a CSV file, as a first pass over the visitors found them.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    key_kind: IdKind,
    cells: Cells,
    names: Vec<String>,
    /// How many visitors have no row, because they have no id of the key's kind.
    pub left_out: u64,
}

impl Reader {
    /// Begins an export.
    pub(in crate::engine) async fn export(
        &self,
        who: &Who,
        client: &ClientCode,
    ) -> Result<Export, EngineError> {
        let (shared, commit) = (Arc::clone(&self.shared), Arc::clone(&self.commit));
        let lifetime_ms = shared.settings(client)?.lifetime_ms;
        refuse_held(&shared.batches.pending(client))?;
        let place = self.exports.take(who).await?;
        let seq = commit.readable().borrow().last;
        Ok(Export { shared, commit, client: client.clone(), lifetime_ms, seq, place })
    }
}

impl Export {
    /// Its place among the exports. Whoever waits for the client notes that on the place, and ends the export when asked to
    /// make room.
    pub fn place(&self) -> &Slot {
        &self.place
    }

    /// Gives each visitor to `each`, until that has enough or nobody wants the export any more. Blocks.
    pub fn visitors(
        &self,
        wanted: impl Fn() -> bool,
        mut each: impl FnMut(Visitor) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let shared = &self.shared;
        let turn = shared.store.turn();
        let walk = Walk {
            store: &*shared.store,
            batches: &shared.batches,
            client: &self.client,
            lifetime_ms: self.lifetime_ms,
            now: &|| shared.now().max(self.commit.last_seq().millis()),
            go_on: &|| {
                shared.signals.go_on()?;
                if shared.store.turn() != turn {
                    let why = "the store was rebuilt during the export: begin the export again";
                    return Err(EngineError::ExportBusy(why.into()));
                }
                Ok(wanted())
            },
            reported: &|error| shared.reported(error),
        };
        // The last read may have met another store, too.
        walk.all(&mut each).and_then(|_| (walk.go_on)().map(|_| ()))
    }

    /// The columns of a CSV file, keyed by `pcId` or `thirdPartyId`. Blocks for a pass over all visitors.
    pub fn table(
        &self,
        key_kind: IdKind,
        cells: Cells,
        wanted: impl Fn() -> bool,
    ) -> Result<Table, EngineError> {
        let mut found = Found::new(key_kind, cells);
        let mut fault = None;
        self.visitors(wanted, |visitor| match found.visitor(&visitor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        })?;
        match fault {
            Some(error) => Err(error),
            None => found.table(&self.client),
        }
    }

    /// The rows of a CSV file, each as a line. Blocks. An attribute whose name no visitor had during the first pass is left
    /// out. By `thirdPartyId`, each visitor that has one gets a row. By `pcId`, each visitor that has any gets one row, under
    /// the most recently bound.
    pub fn rows(
        &self,
        table: &Table,
        wanted: impl Fn() -> bool,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let mut line = vec![];
        let mut too_long = None;
        self.visitors(wanted, |visitor| {
            line.clear();
            if !table.write_row(&visitor, &mut line) {
                return ControlFlow::Continue(());
            }
            if line.len() > ROW_BYTES_MAX {
                too_long = Some(row_too_long(&visitor.canonical));
                return ControlFlow::Break(());
            }
            each(&line)
        })?;
        too_long.map_or(Ok(()), Err)
    }
}

impl Table {
    /// The file's first line.
    pub fn header(&self) -> Vec<u8> {
        let mut line = vec![];
        write_header(&mut line, self.key_kind, self.names.iter().map(String::as_str), self.cells);
        line
    }

    /// Writes a visitor's row. Gives false, and writes nothing, if the visitor has no id of the key's kind.
    fn write_row(&self, visitor: &Visitor, line: &mut Vec<u8>) -> bool {
        let Some(id) = row_id(visitor, self.key_kind) else { return false };
        write_cell(line, id, self.cells);
        // Both are sorted by name.
        let mut attributes = visitor.attributes.iter().peekable();
        for name in &self.names {
            line.push(b',');
            while attributes.next_if(|attribute| attribute.name < *name).is_some() {}
            if let Some(attribute) = attributes.next_if(|attribute| attribute.name == *name) {
                write_cell(line, &attribute.value, self.cells);
            }
        }
        line.push(b'\n');
        true
    }
}

/// What the first pass has found so far.
struct Found {
    key_kind: IdKind,
    cells: Cells,
    names: BTreeSet<String>,
    left_out: u64,
    line: Vec<u8>,
}

impl Found {
    fn new(key_kind: IdKind, cells: Cells) -> Self {
        Self { key_kind, cells, names: BTreeSet::new(), left_out: 0, line: vec![] }
    }

    fn visitor(&mut self, visitor: &Visitor) -> Result<(), EngineError> {
        let Some(id) = row_id(visitor, self.key_kind) else {
            self.left_out += 1;
            return Ok(());
        };
        self.line.clear();
        write_cell(&mut self.line, id, self.cells);
        for attribute in &visitor.attributes {
            write_cell(&mut self.line, &attribute.value, self.cells);
            if !self.names.contains(&attribute.name) {
                self.names.insert(attribute.name.clone());
            }
        }
        if self.names.len() > COLUMNS_MAX {
            return Err(EngineError::NotExportable(format!(
                "the visitors have more than {COLUMNS_MAX} different attributes between them, too many for the columns \
                 of a CSV file: use format=ndjson"
            )));
        }
        if self.line.len() + COLUMNS_MAX > ROW_BYTES_MAX {
            return Err(row_too_long(&visitor.canonical));
        }
        Ok(())
    }

    fn table(self, client: &ClientCode) -> Result<Table, EngineError> {
        let names: Vec<String> = self.names.into_iter().collect();
        if names.is_empty() {
            return Err(EngineError::NotExportable(format!(
                "no visitor of client {client} with a {} has an attribute, and a batch file needs one: use \
                 format=ndjson, or the other by=third-party|pc",
                self.key_kind.name()
            )));
        }
        let table = Table { key_kind: self.key_kind, cells: self.cells, names, left_out: self.left_out };
        if table.header().len() > HEADER_BYTES_MAX {
            return Err(EngineError::NotExportable(format!(
                "the attributes' names come to more than {HEADER_BYTES_MAX} bytes, too many for the header of a batch \
                 file: use format=ndjson"
            )));
        }
        Ok(table)
    }
}

fn row_too_long(id: &VisitorId) -> EngineError {
    EngineError::NotExportable(format!(
        "the visitor with {} {:?} has more than fits into a row of a batch file, {ROW_BYTES_MAX} bytes: use \
         format=ndjson",
        id.kind().name(),
        id.as_str()
    ))
}

/// The id of a visitor's row: of several, the most recently bound.
fn row_id(visitor: &Visitor, kind: IdKind) -> Option<&str> {
    let mut all = visitor.linked.iter().chain(std::iter::once(&visitor.canonical));
    all.rfind(|id| id.kind() == kind).map(VisitorId::as_str)
}

/// A key directly before all keys of a client's ids of this kind.
fn before_all(client: &ClientCode, kind: IdKind) -> Key {
    Key::new(client, kind, "")
}

/// An error if one of these batches is held. The visitors whom it names cannot be shown, and the others must not pass for
/// all.
pub(super) fn refuse_held(pending: &PendingList) -> Result<(), EngineError> {
    match pending.iter().find_map(|batch| Some((batch, batch.held()?))) {
        Some((batch, why)) => {
            Err(EngineError::Held { batch: batch.accepted.id.to_string(), why: why.to_owned() })
        }
        None => Ok(()),
    }
}

/// Whether the store has a profile under a key that lives at the place of each of these batches. Then none of them created it. To
/// ask that is cheaper than to apply all pending rows.
pub(super) fn was_there(
    store: &dyn ProfileStore,
    key: &Key,
    creating: &[&Arc<Pending>],
) -> Result<bool, StoreError> {
    let value = store.get(std::slice::from_ref(key))?.pop().flatten();
    let Some(value) = value else { return Ok(false) };
    let Stored::Profile(profile) = decoded(key, &value)? else { return Ok(false) };
    let lives = |profile: &Profile<'_>, batch: &Pending| {
        let rules = &batch.accepted.rules;
        profile.born != rules.seq && !profile.expired(rules.seq.millis(), rules.lifetime_ms)
    };
    Ok(creating.iter().all(|batch| lives(&profile, batch)))
}

/// A walk over all visitors of a client.
pub struct Walk<'w> {
    /// The store.
    pub store: &'w dyn ProfileStore,
    /// The batches, with the pending rows.
    pub batches: &'w Batches,
    /// The client.
    pub client: &'w ClientCode,
    /// How long a profile lives without a site call.
    pub lifetime_ms: u64,
    /// What time it is.
    pub now: &'w dyn Fn() -> Millis,
    /// Whether the caller still wants it; an error if the daemon is stopping.
    pub go_on: &'w dyn Fn() -> Result<bool, EngineError>,
    /// The error for the caller, where something could not be read.
    pub reported: &'w dyn Fn(ResolveError) -> EngineError,
}

/// Whether a walk goes on, or the caller has enough.
type Went = Result<ControlFlow<()>, EngineError>;

/// The visitors that one step of a walk finds.
enum Part<'p> {
    /// Those in the store, under ids of this kind, if the seq of their birth belongs to this step.
    Stored(IdKind, &'p dyn Fn(Seq) -> bool),
    /// Those whom this batch creates, one of the batches that the walk found pending.
    Created(&'p Pending, &'p [&'p Arc<Pending>]),
}

impl Walk<'_> {
    /// How many visitors live. While a batch is held, this leaves out those whom it creates, and those whom it names and
    /// another batch creates. Profiles in the store are only counted, not built: that costs far less than to show them.
    pub fn count(&self) -> Result<u64, EngineError> {
        let mut count = 0;
        let pending = self.batches.pending(self.client);
        let creating: Vec<&Arc<Pending>> = pending.iter().filter(|batch| batch.held().is_none()).collect();
        let walked = self.parts(&creating, &mut |part| match part {
            Part::Stored(kind, counts) => self.in_store(kind, &mut |key, profile| {
                // A batch that finds no living visitor there, by the lifetime of its time, creates a new one under this key.
                let made_anew = creating.iter().any(|batch| {
                    let rules = &batch.accepted.rules;
                    rules.creates && profile.expired(rules.seq.millis(), rules.lifetime_ms)
                });
                let born = if made_anew {
                    drop(profile);
                    match self.visitor(key).map_err(self.reported) {
                        Ok(visitor) => visitor.map(|visitor| visitor.born),
                        Err(EngineError::Held { .. }) => None,
                        Err(error) => return Err(error),
                    }
                } else {
                    Some(profile.born).filter(|_| !profile.expired((self.now)(), self.lifetime_ms))
                };
                count += u64::from(born.is_some_and(counts));
                Ok(ControlFlow::Continue(()))
            }),
            Part::Created(batch, creating) => {
                let created = self.created(batch, creating, &mut |found| {
                    match found {
                        Ok(visitor) => count += u64::from(visitor.is_some()),
                        Err(EngineError::Held { .. }) => {}
                        Err(error) => return Err(error),
                    }
                    Ok(ControlFlow::Continue(()))
                });
                match created {
                    // The batch was found damaged just now.
                    Err(EngineError::Held { .. }) => Ok(ControlFlow::Continue(())),
                    created => created,
                }
            }
        });
        walked.map(|_| count)
    }

    /// Gives each visitor to `each`, until that has enough.
    fn all(&self, each: &mut impl FnMut(Visitor) -> ControlFlow<()>) -> Went {
        let pending = self.batches.pending(self.client);
        refuse_held(&pending)?;
        let creating: Vec<&Arc<Pending>> = pending.iter().collect();
        self.parts(&creating, &mut |part| match part {
            Part::Stored(kind, shown) => self.stored(kind, shown, each),
            Part::Created(batch, creating) => self.created(batch, creating, &mut |found| {
                Ok(found?.map_or(ControlFlow::Continue(()), &mut *each))
            }),
        })
    }

    /// Walks all parts, with these batches pending, so that each visitor is in one of them.
    fn parts(&self, pending: &[&Arc<Pending>], walk: &mut dyn FnMut(Part<'_>) -> Went) -> Went {
        for kind in WALK {
            let creates =
                |batch: &&&Arc<Pending>| batch.accepted.rules.creates && batch.accepted.key_kind == kind;
            let creating: Vec<&Arc<Pending>> = pending.iter().filter(creates).copied().collect();
            let seqs: BTreeSet<Seq> = creating.iter().map(|batch| batch.accepted.id.seq).collect();
            let mut complete = BTreeSet::new();
            if walk(Part::Stored(kind, &|born| !seqs.contains(&born)))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            for batch in &creating {
                // Once the batch is complete, the store has all its visitors, and its upload may go.
                if batch.progress.completed().is_some() {
                    complete.insert(batch.accepted.id.seq);
                } else if walk(Part::Created(batch, &creating))?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if !complete.is_empty() && walk(Part::Stored(kind, &|born| complete.contains(&born)))?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Gives the visitors in the store under ids of this kind, if `shown` holds for the seq of their birth.
    fn stored(
        &self,
        kind: IdKind,
        shown: &dyn Fn(Seq) -> bool,
        each: &mut impl FnMut(Visitor) -> ControlFlow<()>,
    ) -> Went {
        self.in_store(kind, &mut |key, profile| {
            // The profile may be large, and the lookup reads it again.
            drop(profile);
            let visitor = self.visitor(key).map_err(self.reported)?;
            let visitor = visitor.filter(|visitor| shown(visitor.born));
            Ok(visitor.map_or(ControlFlow::Continue(()), &mut *each))
        })
    }

    /// Gives each profile that the store has under an id of this kind.
    fn in_store(&self, kind: IdKind, each: &mut dyn FnMut(&Key, Profile<'_>) -> Went) -> Went {
        let mut after = Some(before_all(self.client, kind));
        while let Some(from) = after.take() {
            // Many keys may lead to no visitor, so `each` may not be called for long.
            if !(self.go_on)()? {
                return Ok(ControlFlow::Break(()));
            }
            let page =
                self.store.scan(Some(&from), PAGE_KEYS).map_err(|error| (self.reported)(error.into()))?;
            let more = page.len() == PAGE_KEYS;
            for (key, value) in page {
                if key.client() != self.client.as_str() || key.kind() != kind {
                    return Ok(ControlFlow::Continue(()));
                }
                let stored = decoded(&key, &value).map_err(|error| (self.reported)(error.into()))?;
                if let Stored::Profile(profile) = stored
                    && each(&key, profile)?.is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
                after = Some(key).filter(|_| more);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Gives the visitors whom a batch creates, one of the batches that the walk found pending; or the error for one of them.
    fn created(
        &self,
        batch: &Pending,
        creating: &[&Arc<Pending>],
        each: &mut dyn FnMut(Result<Option<Visitor>, EngineError>) -> Went,
    ) -> Went {
        let (kind, seq) = (batch.accepted.key_kind, batch.accepted.id.seq);
        let (mut met, mut end) = (0_usize, None);
        let mut one = |id: &str| -> Went {
            if met.is_multiple_of(PAGE_KEYS) && !(self.go_on)()? {
                return Ok(ControlFlow::Break(()));
            }
            met += 1;
            let key = Key::new(self.client, kind, id);
            if was_there(self.store, &key, creating).map_err(|error| (self.reported)(error.into()))? {
                return Ok(ControlFlow::Continue(()));
            }
            let visitor = self.visitor(&key).map_err(self.reported);
            each(visitor.map(|visitor| visitor.filter(|visitor| visitor.born == seq)))
        };
        let walked = batch.each_id(|id| {
            let went = one(id);
            let goes_on = matches!(went, Ok(ControlFlow::Continue(())));
            end = Some(went).filter(|_| !goes_on);
            if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let (Err(_), Some(why)) = (&walked, batch.held()) {
            return Err(EngineError::Held { batch: batch.accepted.id.to_string(), why: why.to_owned() });
        }
        walked.map_err(|error| EngineError::internal(ResolveError::upload(&batch.accepted.id, error)))?;
        end.unwrap_or(Ok(ControlFlow::Continue(())))
    }

    /// The visitor whose profile is under this key. A visitor that has moved meanwhile is met at its new key. Everything
    /// accepted is exported, even where lookups imitate Adobe's and do not show it yet.
    fn visitor(&self, key: &Key) -> Result<Option<Visitor>, ResolveError> {
        let Ok(id) = VisitorId::new(key.kind(), key.id()) else { return Ok(None) };
        let found = look_up(self.store, self.batches, self.client, &id, (self.now)(), self.lifetime_ms)?;
        Ok(found.filter(|visitor| visitor.canonical == id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::apply::{Plan, Step};
    use crate::journal::log::Position;
    use crate::model::batch::Counts;
    use crate::model::profile::{Attribute, Source};
    use crate::model::update::list_id;
    use crate::store::memory::MemoryStore;
    use crate::store::put_if_newer;

    const AT: Seq = Seq::from_u64(1);

    fn client(code: &str) -> ClientCode {
        ClientCode::new(code).unwrap()
    }

    fn put(store: &MemoryStore, key: &Key, pc_ids: &[&str], attributes: &[(&str, &str)]) {
        let mut profile = Profile::born_at(AT);
        for id in pc_ids {
            list_id(&mut profile, IdKind::Pc, id, AT);
            let link = Stored::Link { applied_seq: AT, target: key.clone() };
            put_if_newer(store, &key.with_id(IdKind::Pc, id), None, &link.encode()).unwrap();
        }
        profile.attributes = attributes
            .iter()
            .map(|(name, value)| Attribute { name, value, seq: AT, source: Source::Mbox, as_of: None })
            .collect();
        put_if_newer(store, key, None, &Stored::Profile(profile).encode()).unwrap();
    }

    fn all(store: &MemoryStore, code: &str) -> Vec<Visitor> {
        all_beside(store, &Batches::default(), &client(code), |_| ())
    }

    /// All visitors, with something that happens before each is taken.
    fn all_beside(
        store: &dyn ProfileStore,
        batches: &Batches,
        client: &ClientCode,
        mut beside: impl FnMut(usize),
    ) -> Vec<Visitor> {
        let mut found = vec![];
        let (now, lifetime_ms) = (&|| Millis(1), 1 << 40);
        let walk = Walk {
            store,
            batches,
            client,
            lifetime_ms,
            now,
            go_on: &|| Ok(true),
            reported: &EngineError::internal,
        };
        let walked = walk.all(&mut |visitor| {
            beside(found.len());
            found.push(visitor);
            ControlFlow::Continue(())
        });
        assert!(walked.unwrap().is_continue());
        found
    }

    #[test]
    fn each_visitor_of_the_client_is_shown_once_whatever_its_ids() {
        let store = MemoryStore::default();
        for code in ["de", "demo", "demp", "demo2"] {
            for n in 0..PAGE_KEYS * 2 {
                let key = |kind| Key::new(&client(code), kind, &format!("v{n}"));
                put(&store, &key(IdKind::ThirdParty), &[&format!("p{n}"), &format!("q{n}")], &[]);
                put(&store, &key(IdKind::Pc), &[], &[]);
                put(&store, &key(IdKind::Ecid), &[], &[]);
            }
        }
        let found = all(&store, "demo");
        let mut ids: Vec<_> = found.iter().map(|visitor| visitor.canonical.clone()).collect();
        assert!(found.iter().all(|visitor| visitor.client == client("demo")));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((found.len(), ids.len()), (PAGE_KEYS * 6, PAGE_KEYS * 6));
        assert_eq!(all(&store, "dem").len(), 0);
    }

    /// The file that a store of these visitors gives.
    fn file(store: &MemoryStore, kind: IdKind) -> Result<(String, u64), String> {
        let mut found = Found::new(kind, Cells::Plain);
        let visitors = all(store, "demo");
        visitors.iter().try_for_each(|visitor| found.visitor(visitor)).map_err(|e| e.to_string())?;
        let table = found.table(&client("demo")).map_err(|e| e.to_string())?;
        let mut text = table.header();
        for visitor in &visitors {
            table.write_row(visitor, &mut text);
        }
        Ok((String::from_utf8(text).unwrap(), table.left_out))
    }

    #[test]
    fn a_table_has_all_names_and_a_row_for_each_visitor_with_such_an_id() {
        let store = MemoryStore::default();
        let key = |kind, id| Key::new(&client("demo"), kind, id);
        put(&store, &key(IdKind::ThirdParty, "a,b"), &["1", "2"], &[("city", "Oslo"), ("tier", "gold")]);
        put(&store, &key(IdKind::ThirdParty, "c"), &[], &[("age", "7"), ("tier", "x")]);
        put(&store, &key(IdKind::Pc, "3"), &[], &[("city", "東京")]);
        let (text, left_out) = file(&store, IdKind::ThirdParty).unwrap();
        assert_eq!(text, "batch=thirdPartyId,age,city,tier\na%2Cb,,Oslo,gold\nc,7,,x\n");
        assert_eq!(left_out, 1);
        let (text, left_out) = file(&store, IdKind::Pc).unwrap();
        assert_eq!(text, "batch=pcId,city,tier\n3,東京,\n2,Oslo,gold\n");
        assert_eq!(left_out, 1);
    }

    #[test]
    fn a_table_that_no_batch_file_could_be_is_refused() {
        let store = MemoryStore::default();
        let key = |id: &str| Key::new(&client("demo"), IdKind::ThirdParty, id);
        put(&store, &key("a"), &[], &[]);
        assert!(file(&store, IdKind::ThirdParty).unwrap_err().contains("has an attribute"));
        let long = "%".repeat(ROW_BYTES_MAX / 3);
        put(&store, &key("b"), &[], &[("a", &long)]);
        assert!(file(&store, IdKind::ThirdParty).unwrap_err().contains("\"b\""));
        let names: Vec<String> = (0..=COLUMNS_MAX).map(|n| format!("{n:05}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        put(&store, &key("a1"), &[], &many);
        assert!(file(&store, IdKind::ThirdParty).unwrap_err().contains("10000 different attributes"));
    }

    /// Applies the first of `parts` parts of a batch; without `parts`, applies the whole batch and notes that it is complete.
    fn apply_in_parts(store: &MemoryStore, batches: &Batches, batch: &Arc<Pending>, parts: Option<usize>) {
        let plan = Plan::make(batch, store, 1 << 20).unwrap();
        let mut part = plan.part(0, parts.unwrap_or(1));
        while part.step(store).unwrap() != Step::Done {}
        if parts.is_none() {
            batches.complete(&batch.accepted.id, Counts::default(), Millis(1));
        }
    }

    /// Rows of a pending batch, of which some create and several are one visitor's, wherever the apply thread is at the beginning
    /// and however it goes on under the walk.
    #[test]
    fn those_whom_pending_rows_create_are_shown_once_wherever_folding_is() {
        const ROWS: usize = 700;
        for (before, under) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (0, 3), (1, 3)] {
            let (folder, store, batches) =
                (tempfile::tempdir().unwrap(), MemoryStore::default(), Batches::default());
            let key = |kind, id: &str| Key::new(&client("demo"), kind, id);
            for n in (0..ROWS).step_by(3) {
                put(&store, &key(IdKind::ThirdParty, &format!("v{n}")), &[&format!("p{n}")], &[]);
            }
            // The second names some whom the first creates, some by a linked id, and some whom nothing else does.
            let text = |kind: &str, id: &str, from: usize| {
                let rows = (from..from + ROWS).chain(from..from + 50);
                rows.fold(format!("batch={kind},a\n"), |text, n| format!("{text}{id}{n},{n}\n"))
            };
            let (first, second) = (text("thirdPartyId", "v", 0), text("pcId", "p", 0));
            let third = text("thirdPartyId", "v", ROWS / 2);
            let made: Vec<Arc<Pending>> = [(2, first), (3, second), (4, third)]
                .into_iter()
                .map(|(seq, text)| {
                    let mut batch = Pending::of_text(folder.path(), "demo", seq, &text);
                    Arc::get_mut(&mut batch.accepted).unwrap().rules.creates = true;
                    let batch = Arc::new(batch);
                    batches.publish(Arc::clone(&batch), Position::START);
                    batch
                })
                .collect();
            for batch in made.iter().take(before) {
                apply_in_parts(&store, &batches, batch, Some(3));
            }
            let found = all_beside(&store, &batches, &client("demo"), |shown| {
                // In the middle of the ids of either kind.
                for at in [300, 1000] {
                    if shown == at && under == 1 {
                        apply_in_parts(&store, &batches, &made[0], Some(2));
                    }
                    let first = batches.pending(&client("demo")).first().cloned();
                    if shown == at
                        && under >= 2
                        && let Some(first) = first
                    {
                        apply_in_parts(&store, &batches, &first, None);
                        if under == 3 {
                            std::fs::remove_file(folder.path().join(first.accepted.spool.to_string()))
                                .unwrap();
                        }
                    }
                }
            });
            let mut ids: Vec<_> = found.iter().map(|visitor| visitor.canonical.as_str().to_owned()).collect();
            ids.sort_unstable();
            let mut expected: Vec<_> = (0..ROWS + ROWS / 2).map(|n| format!("v{n}")).collect();
            expected.extend((0..ROWS).filter(|n| !n.is_multiple_of(3)).map(|n| format!("p{n}")));
            expected.sort_unstable();
            let doubles = ids.windows(2).filter(|two| two[0] == two[1]).count();
            assert_eq!((ids.len(), doubles), (expected.len(), 0), "{before} {under}");
            let has_all = found.iter().all(|visitor| visitor.attributes.len() == 1);
            assert!(has_all, "{before} {under}");
        }
    }

    /// Found by programs that change the lifetime: by the batch's the visitor had expired, by today's it lives, and was
    /// counted with the one that the batch makes in its place.
    #[test]
    fn one_who_had_expired_when_a_batch_came_is_counted_once_though_the_lifetime_is_longer_now() {
        let (folder, store, batches) =
            (tempfile::tempdir().unwrap(), MemoryStore::default(), Batches::default());
        put(&store, &Key::new(&client("demo"), IdKind::Pc, "p"), &[], &[]);
        let at = Seq::from_parts(Millis(10), 0).get();
        let mut batch = Pending::of_text(folder.path(), "demo", at, "batch=pcId,a\np,1\n");
        let rules = &mut Arc::get_mut(&mut batch.accepted).unwrap().rules;
        (rules.creates, rules.lifetime_ms) = (true, 5);
        let batch = Arc::new(batch);
        batches.publish(Arc::clone(&batch), Position::START);
        let count = || {
            let (store, batches, client) = (&store, &batches, &client("demo"));
            let (lifetime_ms, now, go_on, reported) =
                (1 << 40, &|| Millis(10), &|| Ok(true), &EngineError::internal);
            Walk { store, batches, client, lifetime_ms, now, go_on, reported }.count().unwrap()
        };
        assert_eq!(count(), 1);
        apply_in_parts(&store, &batches, &batch, None);
        assert_eq!(count(), 1);
    }
}
