//! All visitors of a client, one after the other, as lookups show them.
//!
//! Promises: every visitor that lives throughout is shown; memory stays small whatever the store holds; the store is
//! read page by page on a thread that may block. What is shown is no snapshot of one instant: each visitor is as of the
//! moment at which it is looked up, and one that logs in meanwhile may be shown twice, the later time with all it has.

use super::shares::{Place, Who};
use super::{App, AppError, Inner, Visitor, look_up};
use crate::batch::csv::write::{Cells, write_cell, write_header};
use crate::batch::csv::{HEADER_BYTES_MAX, ROW_BYTES_MAX};
use crate::batch::outcome::{BatchState, Progress};
use crate::batch::queue::Batches;
use crate::batch::settle::{SettleError, decoded};
use crate::model::id::{ClientCode, IdKind, Key, VisitorId};
use crate::model::profile::Stored;
use crate::model::seq::{Millis, Seq};
use crate::store::ProfileStore;
use crate::sync::Ordering;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How many exports run at once: each takes a thread, and reads the store from end to end.
pub const EXPORTS_MAX: usize = 4;
/// The most attributes in a CSV file: each is a column of every row.
pub const COLUMNS_MAX: usize = 10_000;
/// How many keys are read at once.
const PAGE_KEYS: usize = 64;
/// The kinds of id in the order in which they are walked: profiles move only from an earlier kind to a later one (R2), so
/// that none slips through under the walk.
pub(super) const WALK: [IdKind; 3] = [IdKind::Ecid, IdKind::Pc, IdKind::ThirdParty];
/// How long an export waits for batches that create visitors.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An export that may begin.
pub struct Export {
    inner: Arc<Inner>,
    client: ClientCode,
    lifetime_ms: u64,
    place: Place,
}

/// What a CSV file's columns are, as a first pass over the visitors found them.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    key_kind: IdKind,
    cells: Cells,
    names: Vec<String>,
    /// How many visitors have no id of the key's kind, and so no row.
    pub left_out: u64,
}

impl App {
    /// Begins an export: waits until all visitors that accepted batches create are in the store, where a walk finds them.
    /// (Other rows of pending batches are folded in by each lookup.)
    pub async fn export(&self, who: &Who, client: &ClientCode) -> Result<Export, AppError> {
        let inner = Arc::clone(&self.0);
        let lifetime_ms = inner.settings(client)?.lifetime_ms;
        let place = inner.exports.take(who).await?;
        let pending = inner.batches.pending(client);
        let creating = pending.iter().filter(|batch| batch.accepted.rules.creates);
        let creating = creating.map(|batch| Arc::clone(&batch.progress)).collect();
        completed(creating, PATIENCE, || inner.stopping.load(Ordering::Relaxed)).await?;
        Ok(Export { inner, client: client.clone(), lifetime_ms, place })
    }
}

impl Export {
    /// Its place among the exports: whoever waits for the client says so to it, and ends the export when it is asked to.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Shows each visitor to `each` until that has enough, or nobody wants it any more. Blocks.
    pub fn visitors(
        &self,
        wanted: impl Fn() -> bool,
        mut each: impl FnMut(Visitor) -> ControlFlow<()>,
    ) -> Result<(), AppError> {
        for kind in WALK {
            if self.walk(kind, &wanted, &mut each)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The columns of a CSV file, keyed by `pcId` or `thirdPartyId`. Blocks for a pass over all visitors.
    pub fn table(
        &self,
        key_kind: IdKind,
        cells: Cells,
        wanted: impl Fn() -> bool,
    ) -> Result<Table, AppError> {
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

    /// The rows of a CSV file, each as a line. Blocks. An attribute whose name no visitor had during the first pass is
    /// left out. (One row by `thirdPartyId` for each visitor that has one; by `pcId`, for each that has any, the
    /// most recently bound.)
    pub fn rows(
        &self,
        table: &Table,
        wanted: impl Fn() -> bool,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), AppError> {
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

    fn walk(
        &self,
        kind: IdKind,
        wanted: &impl Fn() -> bool,
        each: &mut impl FnMut(Visitor) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, AppError> {
        let inner = &self.inner;
        let turn = inner.store.turn();
        let mut after = Some(before_all(&self.client, kind));
        while let Some(from) = after {
            if inner.stopping.load(Ordering::Relaxed) {
                return Err(AppError::Stopping);
            }
            // Many keys may lead to no visitor, and `each` not be told.
            if !wanted() {
                return Ok(ControlFlow::Break(()));
            }
            let now = inner.clock.now().max(Seq::from_u64(inner.last_seq.load(Ordering::Acquire)).millis());
            let store = &*inner.store;
            let (walked, next) =
                walk_page(store, &inner.batches, &self.client, &from, (now, self.lifetime_ms), each)
                    .map_err(|error| inner.told(error))?;
            if inner.store.turn() != turn {
                let why = "the store was made again while visitors were read; begin again";
                return Err(AppError::ExportBusy(why.into()));
            }
            if walked.is_break() {
                return Ok(walked);
            }
            after = next;
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Table {
    /// The file's first line.
    pub fn header(&self) -> Vec<u8> {
        let mut line = vec![];
        write_header(&mut line, self.key_kind, self.names.iter().map(String::as_str), self.cells);
        line
    }

    /// Writes a visitor's row; false, and nothing written, if it has no id for it.
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

    fn visitor(&mut self, visitor: &Visitor) -> Result<(), AppError> {
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
            return Err(AppError::NotExportable(format!(
                "the visitors have more than {COLUMNS_MAX} different attributes between them, too many for the columns \
                 of a CSV file: use format=ndjson"
            )));
        }
        if self.line.len() + COLUMNS_MAX > ROW_BYTES_MAX {
            return Err(row_too_long(&visitor.canonical));
        }
        Ok(())
    }

    fn table(self, client: &ClientCode) -> Result<Table, AppError> {
        let names: Vec<String> = self.names.into_iter().collect();
        if names.is_empty() {
            return Err(AppError::NotExportable(format!(
                "no visitor of client {client} with a {} has an attribute, and a batch file needs one: use \
                 format=ndjson, or the other by=third-party|pc",
                self.key_kind.name()
            )));
        }
        let table = Table { key_kind: self.key_kind, cells: self.cells, names, left_out: self.left_out };
        if table.header().len() > HEADER_BYTES_MAX {
            return Err(AppError::NotExportable(format!(
                "the attributes' names come to more than {HEADER_BYTES_MAX} bytes, too many for the header of a batch \
                 file: use format=ndjson"
            )));
        }
        Ok(table)
    }
}

fn row_too_long(id: &VisitorId) -> AppError {
    AppError::NotExportable(format!(
        "the visitor with {} {:?} has more than fits into a row of a batch file, {ROW_BYTES_MAX} bytes: use \
         format=ndjson",
        id.kind().name(),
        id.as_str()
    ))
}

/// The id under which a visitor stands in a file: of several, the most recently bound.
fn row_id(visitor: &Visitor, kind: IdKind) -> Option<&str> {
    let mut all = visitor.linked.iter().chain(std::iter::once(&visitor.canonical));
    all.rfind(|id| id.kind() == kind).map(VisitorId::as_str)
}

/// A key that stands before all keys of a client's ids of a kind, and after all others before those.
fn before_all(client: &ClientCode, kind: IdKind) -> Key {
    Key::new(client, kind, "")
}

/// Shows the visitors under the next keys of `from`'s kind. Gives where to go on from, if there may be more.
fn walk_page(
    store: &dyn ProfileStore,
    batches: &Batches,
    client: &ClientCode,
    from: &Key,
    (now, lifetime_ms): (Millis, u64),
    each: &mut impl FnMut(Visitor) -> ControlFlow<()>,
) -> Result<(ControlFlow<()>, Option<Key>), SettleError> {
    let page = store.scan(Some(from), PAGE_KEYS)?;
    let more = page.len() == PAGE_KEYS;
    let mut last = None;
    for (key, value) in page {
        if key.client() != client.as_str() || key.kind() != from.kind() {
            return Ok((ControlFlow::Continue(()), None));
        }
        let is_profile = matches!(decoded(&key, &value)?, Stored::Profile(_));
        // The bytes may be many, and are looked up again.
        drop(value);
        if is_profile
            && let Ok(id) = VisitorId::new(key.kind(), key.id())
            // All that is accepted goes out, also where lookups imitate Adobe's and do not show it yet.
            && let Some(visitor) = look_up(store, batches, client, &id, now, lifetime_ms)?
            // One that has moved meanwhile is met where it is now.
            && visitor.canonical == id
            && each(visitor).is_break()
        {
            return Ok((ControlFlow::Break(()), None));
        }
        last = Some(key);
    }
    Ok((ControlFlow::Continue(()), last.filter(|_| more)))
}

/// Waits until these batches are complete.
async fn completed(
    batches: Vec<Arc<Progress>>,
    patience: Duration,
    stopping: impl Fn() -> bool,
) -> Result<(), AppError> {
    let begun = Instant::now();
    loop {
        let mut waiting = 0;
        for batch in &batches {
            match batch.state() {
                BatchState::Complete(_) => {}
                BatchState::Incomplete => waiting += 1,
                BatchState::Stuck => {
                    return Err(AppError::ExportBusy(
                        "a batch that creates visitors is stuck, and an export would miss them: the daemon's log says \
                         what keeps it"
                            .into(),
                    ));
                }
            }
        }
        if waiting == 0 {
            return Ok(());
        }
        if stopping() {
            return Err(AppError::Stopping);
        }
        if begun.elapsed() >= patience {
            return Err(AppError::ExportBusy(format!(
                "{waiting} batches that create visitors are not complete after {} seconds, and an export would miss \
                 those visitors: try again when batchStatus says that they are complete",
                patience.as_secs()
            )));
        }
        sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pending::Pending;
    use crate::model::profile::{Attribute, Profile, Source};
    use crate::model::update::list_id;
    use crate::store::memory::MemoryStore;
    use crate::store::put_through;

    const AT: Seq = Seq::from_u64(1);

    fn client(code: &str) -> ClientCode {
        ClientCode::new(code).unwrap()
    }

    fn put(store: &MemoryStore, key: &Key, pc_ids: &[&str], attributes: &[(&str, &str)]) {
        let mut profile = Profile::born_at(AT);
        for id in pc_ids {
            list_id(&mut profile, IdKind::Pc, id, AT);
            let link = Stored::Link { through: AT, target: key.clone() };
            put_through(store, &key.with_id(IdKind::Pc, id), None, &link.encode()).unwrap();
        }
        profile.attributes = attributes
            .iter()
            .map(|(name, value)| Attribute { name, value, seq: AT, source: Source::Mbox })
            .collect();
        put_through(store, key, None, &Stored::Profile(profile).encode()).unwrap();
    }

    fn all(store: &MemoryStore, code: &str) -> Vec<Visitor> {
        let (batches, client) = (Batches::default(), client(code));
        let mut found = vec![];
        for kind in WALK {
            let mut after = Some(before_all(&client, kind));
            while let Some(from) = after {
                let mut each = |visitor| {
                    found.push(visitor);
                    ControlFlow::Continue(())
                };
                let now = (Millis(1), 1 << 40);
                after = walk_page(store, &batches, &client, &from, now, &mut each).unwrap().1;
            }
        }
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

    #[tokio::test]
    async fn an_export_waits_for_batches_but_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let pending = Pending::of_text(folder.path(), "demo", 1, "batch=pcId,a\n1,1\n");
        let waited = |patience| completed(vec![Arc::clone(&pending.progress)], patience, || false);
        let error = waited(Duration::ZERO).await.unwrap_err();
        assert!(matches!(&error, AppError::ExportBusy(why) if why.contains("not complete after")), "{error}");
        let later = tokio::spawn(waited(PATIENCE));
        pending.progress.complete(crate::model::batch::Counts::default(), Millis(1));
        later.await.unwrap().unwrap();
    }
}
