//! The core of a daemon without its threads: what is begun, asked and read step by step. The order tests have one, the
//! simulation of several nodes has one for each node.
//!
//! Promises: a call of [`ops`](super::ops) becomes the request that the front doors would make of it; what a lookup shows and
//! what the model shows come in one form, so that they can be compared.

use super::coverage::{Met, met};
use super::model::{self, From, Id, Kind};
use super::ops::{ATTRIBUTES, BLOCKED, Batch, CLIENTS, Call, Row, Settings, Text, id};
use super::stores::Store;
use profiled::batch::csv::Parser;
use profiled::batch::index::IndexBuilder;
use profiled::batch::outcomes_file::{Failure, read_outcomes};
use profiled::batch::queue::Batches;
use profiled::batch::spool::Spool;
use profiled::engine::BatchSending;
use profiled::engine::commit::{Committer, NewBatch, Request, VisitorWrite, WriteRules};
use profiled::engine::open::recovery::{StartFrom, recover};
use profiled::engine::{CallIds, SiteCall, Visitor, look_up, look_up_at};
use profiled::journal::entry::{Checkpoint, OrderState};
use profiled::journal::log::LogSettings;
use profiled::journal::snapshot::SnapshotReader;
use profiled::model::author::{Author, TokenId};
use profiled::model::batch::{
    BatchRules, ConsecutiveV2, EmptyValues, IdempotencyKey, LeftAlone, Outcome, RowForm, RowReading,
};
use profiled::model::blocked::BlockedIds;
use profiled::model::id::{ClientCode, IdKind, Key, VisitorId};
use profiled::model::profile::{Source, StoredBytes};
use profiled::model::seq::{Clock, Millis, Seq};
use profiled::store::swap::SwapStore;
use profiled::store::{ProfileStore, put_if_newer};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What went wrong.
pub(crate) type Wrong = String;

pub(crate) const BEGUN_MS: u64 = 1_700_000_000_000;
/// Small, so that sequences go over several segments.
const SEGMENT_BYTES: u64 = 16 << 10;
/// Few, so that the rows of an id are bundled in about half of the cases.
pub(crate) const BUNDLE_ROWS_MIN: usize = 2;
/// How many bytes a group has, and what a request resolves in it: little, so that it fills more than one group.
pub(crate) const LIMITS: (usize, usize) = (1500, 100);
/// So many that nothing of a short sequence is dropped: the model keeps all.
pub(crate) const HISTORY_MAX: u16 = 1000;
const SPOOL_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Default)]
pub(crate) struct SetClock(pub(crate) AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }
}

/// A daemon's core.
pub(crate) struct Core {
    pub(crate) swap: Arc<SwapStore>,
    pub(crate) store: Store,
    /// The fresh one beside it.
    pub(crate) next: Option<Store>,
    pub(crate) committer: Committer,
    pub(crate) batches: Arc<Batches>,
    pub(crate) spool: Arc<Spool>,
    /// How far the journal says that the order of several nodes is applied.
    pub(crate) order: Option<OrderState>,
}

/// A folder for a daemon, in memory where there is such a file system.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("profiled-order-").tempdir_in(parent).unwrap()
}

/// Fills a store from a snapshot.
pub(crate) fn fill(store: &dyn ProfileStore, snapshot: &Path) -> Result<(), Wrong> {
    let mut reader = SnapshotReader::open(snapshot).map_err(|error| error.to_string())?;
    while let Some((key, value)) = reader.next_pair().map_err(|error| error.to_string())? {
        let key = Key::from_bytes(key).ok_or("a key")?;
        put_if_newer(store, &key, None, &StoredBytes::new(value)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

impl Core {
    pub(crate) fn try_start(
        folder: &Path,
        store: Store,
        from: StartFrom,
        clock: &Arc<SetClock>,
        (group_bytes, resolved_bytes): (usize, usize),
    ) -> Result<Self, Wrong> {
        let settings = LogSettings { segment_bytes: SEGMENT_BYTES };
        let recovered = recover(folder, &*store.shared(), from, settings, SPOOL_BYTES_MAX)
            .map_err(|error| format!("the start failed: {error}"))?;
        let swap = Arc::new(SwapStore::new(store.shared(), recovered.reach));
        let committer = Committer::new(
            recovered.log,
            Arc::clone(&swap) as _,
            Arc::clone(&recovered.batches),
            recovered.last_seq,
            Arc::clone(clock) as _,
        )
        .filling_from(group_bytes, resolved_bytes);
        let (batches, spool, order) = (recovered.batches, recovered.spool, recovered.order);
        Ok(Self { swap, store, next: None, committer, batches, spool, order })
    }

    pub(crate) fn shared(&self) -> Arc<dyn ProfileStore> {
        Arc::clone(&self.swap) as _
    }

    /// The checkpoint for the store that was made durable just now.
    pub(crate) fn durable_mark(&self) -> Result<Checkpoint, Wrong> {
        let reach = self.swap.make_durable().map_err(|error| error.to_string())?;
        Ok(Checkpoint { store_reach: reach.0, ..self.committer.mark() })
    }

    /// The request that a call comes to.
    pub(crate) fn request(
        &self,
        client: usize,
        call: &Call,
        settings: &Settings,
        now: Millis,
    ) -> Result<Request, Wrong> {
        let code = client_code(client);
        let rules = write_rules(settings);
        Ok(match call {
            Call::Site { pc, third_party, ecid, sets } => {
                let id = |kind, who: &Option<usize>| who.map(|who| visitor_id(&id(kind, who)));
                let ids = CallIds {
                    pc: id(Kind::Pc, pc),
                    third_party: id(Kind::ThirdParty, third_party),
                    ecid: id(Kind::Ecid, ecid),
                    made: made_for(*pc, *third_party, *ecid).iter().map(visitor_id).collect(),
                };
                let source = if ecid.is_some() { Source::Delivery } else { Source::Mbox };
                Request::Site(SiteCall { client: code, ids, source, attributes: named(sets) }, rules)
            }
            Call::Update { kind, who, sets } => {
                let write = VisitorWrite::Set(named(sets));
                Request::Visitor(code, visitor_id(&id(*kind, *who)), write, author(*who), rules)
            }
            Call::Remove { kind, who, attributes } => {
                let write = VisitorWrite::Remove(names(attributes));
                Request::Visitor(code, visitor_id(&id(*kind, *who)), write, author(*who), rules)
            }
            Call::Erase { kind, who } => {
                Request::Visitor(code, visitor_id(&id(*kind, *who)), VisitorWrite::Erase, author(*who), rules)
            }
            Call::Batch(batch) => {
                let rules = batch_rules(batch, settings, now);
                Request::Accept(Box::new(self.upload(code, rules, &file_of(batch), None, now)?))
            }
        })
    }

    /// Uploads the text of a file: spool, parser and index.
    pub(crate) fn upload(
        &self,
        client: ClientCode,
        rules: BatchRules,
        text: &str,
        key: Option<IdempotencyKey>,
        now: Millis,
    ) -> Result<NewBatch, Wrong> {
        let failed = |error: &dyn std::fmt::Display| format!("upload: {error}");
        let mut spool = self.spool.begin(now).map_err(|error| failed(&error))?;
        spool.write(text.as_bytes()).map_err(|error| failed(&error))?;
        let (mut parser, mut rows) = (Parser::new(&rules.reading), 0);
        let mut index = IndexBuilder::bundling_from(BUNDLE_ROWS_MIN);
        let each = |row: profiled::batch::csv::Row<'_>| {
            rows += 1;
            index.add(&row, rules.empty_values);
        };
        parser.push(text.as_bytes(), each).map_err(|error| failed(&error))?;
        let header = parser.finish(|_| ()).map_err(|error| failed(&error))?.clone();
        spool.sync().map_err(|error| failed(&error))?;
        let index = index.finish(&self.spool.index_path(spool.name()), &spool.path(), &header, &rules);
        let index = index.map_err(|error| failed(&error))?;
        spool.count_index();
        Ok(NewBatch {
            client,
            rules,
            header,
            rows,
            spool,
            index,
            sending: BatchSending { key, ..BatchSending::default() },
            lacking: None,
        })
    }

    /// What became of each row of a batch that was applied here.
    pub(crate) fn check_outcomes(
        &self,
        seq: u64,
        spool: u64,
        rows: &[model::Row],
        became: &[model::Outcome],
    ) -> Result<(), Wrong> {
        let path = self.spool.outcomes_path(spool);
        let reported = read_outcomes(&path).map_err(|error| error.to_string())?;
        let reported: BTreeMap<u32, _> = reported.into_iter().map(|row| (row.line, row)).collect();
        for (line, (row, became)) in (2..).zip(rows.iter().zip(became)) {
            let reported = reported.get(&line);
            let expected = outcome(*became);
            let reported_outcome = reported.map_or(Outcome::Updated, |reported| reported.outcome);
            let reason_fits = match reported.and_then(|reported| reported.failure) {
                None => expected != Outcome::Failed,
                Some(Failure::Row(_)) => row.is_none(),
                Some(Failure::ProfileTooLarge | Failure::NotKept) => row.is_some(),
                Some(Failure::UploadDamaged | Failure::OutcomeLost) => false,
            };
            if reported_outcome != expected || !reason_fits {
                return Err(format!(
                    "batch {seq}, line {line}, {row:?}: should be {expected:?}, is {reported:?}"
                ));
            }
        }
        Ok(())
    }

    /// How what a lookup shows of an earlier time differs from what the model says of it, if it does.
    pub(crate) fn differs_at(
        &self,
        (visitors, then): (&model::Visitors, &model::Visitors),
        (client, id): (usize, &Id),
        (at, now, lifetime_ms): (u64, Millis, u64),
    ) -> Result<Option<String>, Wrong> {
        let Some((key, profile)) = visitors.look_up(id, now.0, lifetime_ms) else { return Ok(None) };
        if at < profile.born {
            return Ok(None);
        }
        let code = client_code(client);
        let shows = (now, lifetime_ms, Seq::from_u64(at));
        let seen = look_up_at(&*self.shared(), &self.batches, &code, &visitor_id(id), shows)
            .map_err(|error| format!("{id} cannot be read at {at}: {error}"))?;
        let read = seen.map(|seen| seen.map(|visitor| visitor.as_ref().map(attributes_of)));
        if at < profile.known_since {
            met(Met::ReadTooLate);
            let refused = matches!(read, Some(Err(_)));
            return Ok(
                (!refused).then(|| format!("{id} is known only since {}: {read:?}", profile.known_since))
            );
        }
        let then = then.profile(key).filter(|then| then.born == profile.born);
        let expected = then.map(|then| texts(&then.visible()));
        if expected != Some(texts(&profile.visible())) {
            met(Met::ReadAsOf);
        }
        let same = matches!(&read, Some(Ok(seen)) if *seen == expected);
        Ok((!same).then(|| format!("{id} at seq {at} should read {expected:?}, and reads {read:?}")))
    }

    /// How what a lookup shows differs from what the model shows in its place, if it does.
    pub(crate) fn differs(
        &self,
        visitors: &model::Visitors,
        id: (usize, &Id),
        now: Millis,
        lifetime_ms: u64,
    ) -> Result<Option<String>, Wrong> {
        self.seen_and_differs(visitors, id, now, lifetime_ms).map(|(_, differs)| differs)
    }

    /// What a lookup shows, and how that differs from what the model shows in its place, if it does.
    pub(crate) fn seen_and_differs(
        &self,
        visitors: &model::Visitors,
        (client, id): (usize, &Id),
        now: Millis,
        lifetime_ms: u64,
    ) -> Result<(Option<Visitor>, Option<String>), Wrong> {
        let code = client_code(client);
        let seen = look_up(&*self.shared(), &self.batches, &code, &visitor_id(id), now, lifetime_ms)
            .map_err(|error| format!("{id} cannot be read: {error}"))?;
        let expected = visitors.look_up(id, now.0, lifetime_ms).map(|it| expected_of(it, lifetime_ms));
        let shows = seen.as_ref().map(shown);
        let differs = (shows != expected).then(|| differing(shows, expected));
        Ok((seen, differs))
    }
}

fn texts(attributes: &BTreeMap<String, model::Value>) -> BTreeMap<String, String> {
    attributes.iter().map(|(name, value)| (name.clone(), value.text.clone())).collect()
}

fn attributes_of(visitor: &Visitor) -> BTreeMap<String, String> {
    visitor.attributes.iter().map(|held| (held.name.clone(), held.value.clone())).collect()
}

pub(crate) fn write_rules(settings: &Settings) -> WriteRules {
    WriteRules {
        lifetime_ms: settings.lifetime_ms,
        max_profile_bytes: settings.profile_bytes_max,
        history_max: HISTORY_MAX,
    }
}

pub(crate) fn batch_rules(batch: &Batch, settings: &Settings, now: Millis) -> BatchRules {
    BatchRules {
        seq: Seq::ZERO,
        source: if batch.v2 { Source::BatchV2 } else { Source::BatchV1 },
        creates: batch.v2 && settings.creates,
        consecutive_v2: match settings.replaces {
            true => ConsecutiveV2::Replace,
            false => ConsecutiveV2::Merge,
        },
        empty_values: if batch.removes { EmptyValues::Remove } else { EmptyValues::Ignore },
        lifetime_ms: settings.lifetime_ms,
        max_profile_bytes: settings.profile_bytes_max,
        reading: match batch.ndjson {
            true => RowReading::of_form(RowForm::Ndjson, BlockedIds::default()),
            false => RowReading::default(),
        },
        history_max: HISTORY_MAX,
        as_of: batch.as_of_ms(now.0).map(Millis),
        undoes: None,
    }
}

pub(crate) fn client_code(client: usize) -> ClientCode {
    ClientCode::new(CLIENTS[client]).unwrap()
}

/// The pcIds for a call without one. Other calls bring the same ids, so they sometimes belong to another visitor.
pub(crate) fn made_for(pc: Option<usize>, third_party: Option<usize>, ecid: Option<usize>) -> Vec<Id> {
    match (pc, ecid.or(third_party)) {
        (None, Some(who)) => (1..3).map(|more| id(Kind::Pc, who + more)).collect(),
        _ => vec![],
    }
}

pub(crate) fn visitor_id(id: &Id) -> VisitorId {
    let kind = match id.kind {
        Kind::Pc => IdKind::Pc,
        Kind::ThirdParty => IdKind::ThirdParty,
        Kind::Ecid => IdKind::Ecid,
    };
    VisitorId::new(kind, &id.name).unwrap()
}

pub(crate) fn model_id(id: &VisitorId) -> Id {
    let kind = match id.kind() {
        IdKind::Pc => Kind::Pc,
        IdKind::ThirdParty => Kind::ThirdParty,
        IdKind::Ecid => Kind::Ecid,
    };
    Id { kind, name: id.as_str().into() }
}

pub(crate) fn outcome(became: model::Outcome) -> Outcome {
    match became {
        model::Outcome::Updated => Outcome::Updated,
        model::Outcome::UpdatedInPart(cells) => {
            let mut left = LeftAlone::default();
            (0..8).filter(|cell| cells & (1 << cell) != 0).for_each(|cell| left.add(cell));
            Outcome::UpdatedInPart(left)
        }
        model::Outcome::Newer => Outcome::Newer,
        model::Outcome::Created => Outcome::Created,
        model::Outcome::NotFound => Outcome::NotFound,
        model::Outcome::Ignored => Outcome::Ignored,
        model::Outcome::Failed => Outcome::Failed,
    }
}

pub(crate) fn named(sets: &[(usize, Text)]) -> Vec<(String, String)> {
    sets.iter().map(|(name, text)| (ATTRIBUTES[*name].into(), text.text())).collect()
}

pub(crate) fn names(attributes: &[usize]) -> Vec<String> {
    attributes.iter().map(|name| ATTRIBUTES[*name].into()).collect()
}

pub(crate) fn ids_of(rows: &[model::Row]) -> BTreeSet<Id> {
    rows.iter().flatten().map(|(id, _)| id.clone()).collect()
}

/// The file of a batch.
pub(crate) fn file_of(batch: &Batch) -> String {
    let by = if batch.by == Kind::Pc { "pcId" } else { "thirdPartyId" };
    if batch.ndjson { objects_of(batch, by) } else { csv_of(batch, by) }
}

fn csv_of(batch: &Batch, by: &str) -> String {
    let mut text = format!("batch={by}");
    batch.columns.iter().for_each(|column| text = format!("{text},{}", ATTRIBUTES[*column]));
    text.push('\n');
    for row in &batch.rows {
        let line = match row {
            Row::Good { who, hint, cells } => {
                let hint = if *hint && batch.by == Kind::Pc { ".28_0" } else { "" };
                let cells = cells.iter().take(batch.columns.len());
                let cells: String = cells.map(|cell| format!(",{}", cell.text())).collect();
                format!("{}{hint}{cells}", id(batch.by, *who).name)
            }
            Row::BadEscape { who } => format!("{},%zz", id(batch.by, *who).name),
            Row::TooManyCells { who } => {
                format!("{}{}", id(batch.by, *who).name, ",1".repeat(batch.columns.len() + 1))
            }
            Row::NoId => ",1".into(),
            Row::BlockedId { word } => format!("{},1", BLOCKED[*word]),
        };
        text = format!("{text}{line}\n");
    }
    (0..batch.fillers).for_each(|n| text = format!("{text}f{n},1\n"));
    text
}

/// The same rows as objects.
fn objects_of(batch: &Batch, by: &str) -> String {
    let columns: Vec<&str> = batch.columns.iter().map(|column| ATTRIBUTES[*column]).collect();
    let mut text = format!("{}\n", json!({"batch": by, "attributes": columns}));
    for row in &batch.rows {
        let line = match row {
            Row::Good { who, hint, cells } => {
                let hint = if *hint && batch.by == Kind::Pc { ".28_0" } else { "" };
                let id = format!("{}{hint}", id(batch.by, *who).name);
                let mut row = Map::from_iter([(by.to_owned(), json!(id))]);
                for (column, cell) in columns.iter().zip(cells) {
                    let value = match cell {
                        Text::Empty => Value::Null,
                        Text::Two => json!(22),
                        text => json!(text.text()),
                    };
                    row.insert((*column).to_owned(), value);
                }
                json!(row).to_string()
            }
            // JSON has its own escapes.
            Row::BadEscape { who } => format!("{{\"{by}\":\"{}\\u\"}}", id(batch.by, *who).name),
            Row::TooManyCells { who } => json!({by: id(batch.by, *who).name, "z": 1}).to_string(),
            Row::NoId => json!({columns[0]: 1}).to_string(),
            Row::BlockedId { word } => json!({by: BLOCKED[*word], columns[0]: 1}).to_string(),
        };
        text = format!("{text}{line}\n");
    }
    (0..batch.fillers)
        .for_each(|n| text = format!("{text}{}\n", json!({by: format!("f{n}"), columns[0]: 1})));
    text
}

/// The same rows as the model takes them.
pub(crate) fn rows_of(batch: &Batch) -> Vec<model::Row> {
    let row = |row: &Row| match row {
        Row::Good { who, cells, .. } => {
            let cells = batch.columns.iter().zip(cells);
            let cells = cells.map(|(column, text)| (ATTRIBUTES[*column].to_owned(), text.text()));
            Some((id(batch.by, *who), cells.collect()))
        }
        _ => None,
    };
    let filler = |n| {
        let name = ATTRIBUTES[batch.columns[0]].to_owned();
        Some((Id { kind: batch.by, name: format!("f{n}") }, vec![(name, "1".to_owned())]))
    };
    batch.rows.iter().map(row).chain((0..batch.fillers).map(filler)).collect()
}

/// Who makes the single updates that name the visitor with this index.
fn author(who: usize) -> Author {
    Author { token: TokenId::new(&format!("{who:x}")), address: None }
}

/// The index whose author this is. No index is that large.
fn index_of(by: Author) -> usize {
    by.token.map_or(usize::MAX, |token| usize::from_str_radix(token.as_str(), 16).unwrap())
}

/// A visitor as compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    canonical: Id,
    /// Name, value, seq, source, and the time that its batch said.
    attributes: Vec<(String, String, u64, From, Option<u64>)>,
    /// In the order in which they were bound.
    ids: Vec<Id>,
    born: u64,
    last_site: u64,
    last_batch: u64,
    last_write: u64,
    last_active_ms: u64,
    expires_ms: u64,
}

/// The lines that should be there and are not, and those that are there and should not be.
pub(crate) fn differing(seen: Option<Compared>, expected: Option<Compared>) -> String {
    let lines = |shown: Option<Compared>| -> BTreeSet<String> {
        let Some(shown) = shown else { return BTreeSet::from(["unknown".into()]) };
        let ids = (1..).zip(&shown.ids).map(|(n, id)| format!("id no. {n}: {id}")).collect();
        let attributes =
            shown.attributes.iter().map(|attribute| format!("attribute {attribute:?}")).collect();
        let rest = Compared { ids: vec![], attributes: vec![], ..shown };
        BTreeSet::from([format!("{rest:?}")])
            .into_iter()
            .chain::<BTreeSet<_>>(ids)
            .chain::<BTreeSet<_>>(attributes)
            .collect()
    };
    let (seen, expected) = (lines(seen), lines(expected));
    let not = expected.difference(&seen).map(|line| format!("\n  not there: {line}"));
    not.chain(seen.difference(&expected).map(|line| format!("\n  but there: {line}"))).collect()
}

pub(crate) fn shown(visitor: &Visitor) -> Compared {
    let from = |source, by: Author| match source {
        Source::Mbox => From::Mbox,
        Source::Delivery => From::Delivery,
        Source::SingleUpdate => From::SingleUpdate(index_of(by)),
        Source::BatchV1 => From::BatchV1,
        Source::BatchV2 => From::BatchV2,
    };
    let attributes = visitor.attributes.iter();
    Compared {
        canonical: model_id(&visitor.canonical),
        attributes: attributes
            .map(|held| {
                let as_of = held.as_of.map(|as_of| as_of.0);
                (held.name.clone(), held.value.clone(), held.seq.get(), from(held.source, held.by), as_of)
            })
            .collect(),
        ids: visitor.linked.iter().map(model_id).collect(),
        born: visitor.born.get(),
        last_site: visitor.last_site.map_or(0, Seq::get),
        last_batch: visitor.last_batch.map_or(0, Seq::get),
        last_write: visitor.seq.get(),
        last_active_ms: visitor.last_active.0,
        expires_ms: visitor.expires.0,
    }
}

pub(crate) fn expected_of((key, profile): (&Id, &model::Profile), lifetime_ms: u64) -> Compared {
    let attributes = profile.visible();
    Compared {
        canonical: key.clone(),
        attributes: attributes
            .into_iter()
            .map(|(name, value)| (name, value.text, value.seq, value.from, value.as_of_ms))
            .collect(),
        ids: profile.ids().cloned().collect(),
        born: profile.born,
        last_site: profile.last_site,
        last_batch: profile.last_batch,
        last_write: profile.last_write,
        last_active_ms: profile.last_active_ms,
        expires_ms: profile.last_active_ms + lifetime_ms,
    }
}
