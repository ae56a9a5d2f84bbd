//! Applying a pending batch to the store: the main data flow.
//!
//! ```text
//! uploaded bytes ─► Plan: verified; every row read once; bad and empty ones become outcomes; linked pcIds follow their link;
//!                   the rest sorted by key, so that sled's pages are met in order and one visitor is applied once
//!                └► Parts, split by key range, for two writers: chunks of rows ─► store.apply_rows ─► outcomes
//! ```
//!
//! Promises: no allocation per cell. No row of a visitor with very many rows is read here: the commit thread resolves them,
//! [bundled](super::bundles). A row whose outcome could not be seen from the profile afterwards is not applied here: the
//! commit thread takes it, and journals the outcome first. So a batch can start over after a crash at any moment. Rows that
//! are applied already are recognised by the stored applied_seq, and their outcome is journaled or plain from the profile.

use super::csv::{Cells, Header, Parser, Row as FileRow, RowPlace, RowReader};
use super::found::{BundleRow, Found};
use super::index::brings_anything;
use super::outcomes_file::{Failure, RowOutcome};
use super::pending::Pending;
use super::resolve::{ResolveError, View};
use crate::model::batch::{Counts, EmptyValues, Outcome};
use crate::model::id::{IdKind, Key};
use crate::model::profile::Stored;
use crate::model::update::{Cell, Row, outcome_of_row_already_in};
use crate::store::{ProfileStore, Swapped, VisitorRows};
use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The most rows that a part applies before it gives way to site calls (R10). A visitor with more rows is one chunk.
pub const CHUNK_ROWS: usize = 128;
/// A visitor with more rows than this is resolved by the commit thread, which takes them bundled.
pub const VISITOR_ROWS_MAX: usize = 4096;
/// So many rows of one visitor are counted one by one before their end is searched for.
const ROWS_COUNTED: usize = 8;
/// Fewer rows are planned sooner than a thread is started.
const SHARED_FROM_ROWS: usize = 10_000;
/// How many ids are looked up at a time.
const LINK_IDS: usize = 1024;

/// Where a row is, and whose it is.
#[derive(Debug, Clone, Copy)]
struct PlannedRow {
    /// The first sixteen bytes of the visitor's id. Most comparisons end here.
    prefix: Prefix,
    /// Where the visitor's id begins in the plan's text: the lower bits, then the upper ones.
    id_start: u32,
    id_start_high: u8,
    id_len: u16,
    /// What kind of id it is.
    kind: IdKind,
    offset: u32,
    line: u32,
    len: u32,
    /// The checksum of what the row said when the whole file was verified.
    sum: u32,
}

impl PlannedRow {
    fn id_start(&self) -> usize {
        usize::from(self.id_start_high) << 32 | self.id_start as usize
    }
}

/// One visitor's rows.
#[derive(Debug)]
pub enum TheirRows<'r> {
    /// Each, in line order.
    Each(&'r [Row<'r, 'r>]),
    /// Very many, bundled.
    Bundled(&'r Found),
}

/// Bytes in the order in which they stand, zeros behind their end.
type Prefix = [u64; 2];

/// Where an id is in a plan's text.
struct PlanId {
    prefix: Prefix,
    start: u32,
    start_high: u8,
    len: u16,
}

/// How many bits the place of an id in the plan's text has.
const ID_PLACE_BITS: u32 = 40;

/// The verified file of a batch. Its rows are read again in the order of their visitors, when their turn comes.
#[derive(Debug)]
enum PlanFile {
    /// The whole file, in memory. That saves a tenth of the time.
    Held(Vec<u8>),
    /// Where memory is scarcer, the page cache has it.
    Opened(File),
}

/// A batch's rows in the order in which they are applied.
#[derive(Debug)]
pub struct Plan {
    pending: Arc<Pending>,
    file: PlanFile,
    ids: String,
    places: Vec<PlannedRow>,
    /// The rows that are in bundles, in line order.
    bundled: Vec<BundleRow>,
    visitor_rows_max: usize,
    /// Why the plan is not whole, if it is not.
    unfit: Option<String>,
    /// Outcomes that do not depend on the store.
    outcomes: Vec<RowOutcome>,
    counts: Counts,
}

impl Plan {
    /// Reads and verifies a batch's file, and puts its rows in order. A file of at most `held_bytes_max` bytes is held in memory
    /// until it is applied.
    pub fn make(
        pending: &Arc<Pending>,
        store: &dyn ProfileStore,
        held_bytes_max: u64,
    ) -> Result<Self, ResolveError> {
        let accepted = &pending.accepted;
        let spool = |error| ResolveError::Spool { batch: accepted.id.to_string(), error };
        let counted = |number: u64| {
            usize::try_from(number).map_err(|error| spool(io::Error::new(io::ErrorKind::InvalidData, error)))
        };
        let file = if accepted.bytes <= held_bytes_max {
            PlanFile::Held(Vec::with_capacity(counted(accepted.bytes)?))
        } else {
            PlanFile::Opened(pending.open_file().map_err(|error| ResolveError::upload(&accepted.id, error))?)
        };
        let mut plan = Self {
            pending: Arc::clone(pending),
            file,
            ids: String::new(),
            places: Vec::with_capacity(counted(accepted.rows)?),
            bundled: pending.bundle_rows().map_err(spool)?,
            visitor_rows_max: VISITOR_ROWS_MAX,
            unfit: None,
            outcomes: vec![],
            counts: Counts::default(),
        };
        let (mut parser, mut parsed) = (Parser::new(&accepted.rules.reading), Ok(()));
        let read = pending.read_file(|piece| {
            if let PlanFile::Held(bytes) = &mut plan.file {
                bytes.extend_from_slice(piece);
            }
            if parsed.is_ok() {
                parsed = parser.push(piece, |row| plan.add(row));
            }
        });
        read.map_err(|error| ResolveError::upload(&accepted.id, error))?;
        parsed
            .and_then(|()| parser.finish(|row| plan.add(row)).map(|_| ()))
            .map_err(|error| spool(io::Error::new(io::ErrorKind::InvalidData, error.to_string())))?;
        plan.sort();
        if pending.header.key_kind() == IdKind::Pc && plan.follow_links(store)? {
            plan.sort();
        }
        if let Some(why) = plan.unfit.take() {
            return Err(spool(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        debug_assert!(
            plan.places.len() as u64 + plan.counts.total() <= accepted.rows,
            "each row of batch {} is decided or to be applied, once",
            accepted.id
        );
        Ok(plan)
    }

    /// The same plan, but visitors with more rows than this are left to the commit thread. Only tests change the number.
    pub fn leaving_from(self, visitor_rows_max: usize) -> Self {
        Self { visitor_rows_max, ..self }
    }

    /// One of so many parts, split by key range. Each can be applied on a thread of its own.
    pub fn part(&self, number: usize, of: usize) -> Part<'_> {
        let places = self.places.as_slice();
        let (before, _) = self.split(places, places.len() * number / of.max(1));
        let (until, _) = self.split(places, places.len() * (number + 1) / of.max(1));
        Part::new(self, until.get(before.len()..).unwrap_or_default())
    }

    /// How many rows are to be applied.
    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// What was decided without the store.
    pub fn decided(&self) -> (&[RowOutcome], Counts) {
        (&self.outcomes, self.counts)
    }

    /// The batch.
    pub fn pending(&self) -> &Arc<Pending> {
        &self.pending
    }

    /// What became of a well-formed row.
    fn outcome_of(&self, place: &PlannedRow, outcome: Outcome) -> RowOutcome {
        let failure = self.pending.failure_of(place.line, outcome);
        RowOutcome { line: place.line, offset: place.offset, outcome, failure }
    }

    /// Gives the rows of each visitor in turn, as they would be applied. Returns the outcomes that `each` reports, except for
    /// updated rows, and all counts.
    pub fn each_visitor(
        &self,
        mut each: impl FnMut(&Key, TheirRows<'_>, &mut dyn FnMut(u32, Outcome)) -> Result<(), ResolveError>,
    ) -> Result<(Vec<RowOutcome>, Counts), ResolveError> {
        let (mut outcomes, mut counts) = (vec![], Counts::default());
        let (mut read, mut rest) = (RowsRead::default(), self.places.as_slice());
        while let Some(first) = rest.first() {
            let (places, after) = self.split(rest, 1);
            let mut became = |line, outcome| {
                counts.add(outcome);
                let at = places.binary_search_by_key(&line, |place| place.line).ok();
                let place = at.and_then(|at| places.get(at));
                if let Some(place) = place.filter(|_| outcome != Outcome::Updated) {
                    outcomes.push(self.outcome_of(place, outcome));
                }
            };
            if places.len() > self.visitor_rows_max {
                each(&self.key(first), TheirRows::Bundled(&self.found(places)?), &mut became)?;
            } else {
                self.read_rows(places, &mut read)?;
                let cells = read.cells(&self.pending.header);
                let rows = read.rows(places, &cells);
                each(&self.key(first), TheirRows::Each(&rows), &mut became)?;
            }
            rest = after;
        }
        Ok((outcomes, counts))
    }

    /// Which row of which bundle this one is.
    fn in_bundle(&self, line: u32) -> Option<BundleRow> {
        let at = self.bundled.binary_search_by_key(&line, |row| row.line).ok()?;
        self.bundled.get(at).copied()
    }

    /// The rows of one visitor, those of bundles bundled.
    fn found(&self, places: &[PlannedRow]) -> Result<Found, ResolveError> {
        let (mut alone, mut bundles) = (vec![], vec![]);
        for place in places {
            match self.in_bundle(place.line) {
                Some(row) => bundles.push(row.bundle),
                None => alone.push(RowPlace { line: place.line, offset: place.offset }),
            }
        }
        bundles.sort_unstable();
        bundles.dedup();
        let found = || {
            let bundles = self.pending.bundles_from(bundles)?;
            Ok(Found { rows: self.pending.rows_in(&alone)?, bundles })
        };
        let batch = &self.pending.accepted.id;
        found().map_err(|error| ResolveError::Spool { batch: batch.to_string(), error })
    }

    /// What became of a row, if it is known already.
    fn resolved(&self, line: u32) -> Option<Outcome> {
        match self.in_bundle(line) {
            Some(row) => self.pending.resolved_in(row),
            None => self.pending.resolved_row(line),
        }
    }

    /// Whether writes resolved all of a visitor's rows. Then only those writes put the visitor into the store.
    fn left_to_writes(&self, places: &[PlannedRow]) -> bool {
        if self.bundled.is_empty() {
            return self.pending.left_to_writes(places.iter().map(|place| place.line), std::iter::empty());
        }
        let (mut alone, mut bundles) = (vec![], vec![]);
        for place in places {
            match self.in_bundle(place.line) {
                Some(row) => bundles.push(row.bundle),
                None => alone.push(place.line),
            }
        }
        bundles.sort_unstable();
        bundles.dedup();
        self.pending.left_to_writes(alone.into_iter(), bundles.into_iter())
    }

    /// Reads rows again.
    fn read_rows(&self, places: &[PlannedRow], rows: &mut RowsRead) -> Result<(), ResolveError> {
        let accepted = &self.pending.accepted;
        let RowsRead { reader, row, text, spans, ends } = rows;
        text.clear();
        spans.clear();
        ends.clear();
        self.touch(places);
        for place in places {
            let read = reader.read(&self.pending.header, self.read_row(place, row)?).content;
            let Some(read) = read.ok().filter(|read| self.sum(read) == place.sum) else {
                let changed = self.pending.row_changed(place.line);
                return Err(ResolveError::upload(&accepted.id, changed));
            };
            for (attribute, value) in read.attributes() {
                let start = text.len();
                text.push_str(value);
                spans.push(Span { attribute, start, end: text.len() });
            }
            if accepted.rules.empty_values == EmptyValues::Remove {
                spans.extend(read.emptied().map(|attribute| Span { attribute, start: 0, end: 0 }));
            }
            ends.push(spans.len());
        }
        Ok(())
    }

    fn add(&mut self, row: FileRow<'_>) {
        let empty_values = self.pending.accepted.rules.empty_values;
        let read = match row.content {
            Err(error) => (Outcome::Failed, Some(Failure::Row(error))),
            Ok(cells) if !brings_anything(&cells, empty_values) => (Outcome::Ignored, None),
            Ok(cells) => {
                let kind = self.pending.header.key_kind();
                let id = self.add_id(cells.id());
                self.places.push(PlannedRow {
                    prefix: id.prefix,
                    id_start: id.start,
                    id_start_high: id.start_high,
                    id_len: id.len,
                    kind,
                    offset: row.offset,
                    line: row.line,
                    len: row.len,
                    sum: self.sum(&cells),
                });
                return;
            }
        };
        let (outcome, failure) = self.pending.on_record(row.line).unwrap_or(read);
        self.counts.add(outcome);
        if outcome != Outcome::Updated {
            self.outcomes.push(RowOutcome { line: row.line, offset: row.offset, outcome, failure });
        }
    }

    /// Adds an id to the text. A text longer than any limit allows makes the plan unfit.
    fn add_id(&mut self, id: &str) -> PlanId {
        let at = self.ids.len();
        let high = u8::try_from(at as u64 >> 32);
        let (Ok(start_high), Ok(len)) = (high, u16::try_from(id.len())) else {
            let why = format!(
                "its ids come to 2^{ID_PLACE_BITS} bytes, or one of them is longer than any id may be"
            );
            self.unfit.get_or_insert(why);
            return PlanId { prefix: prefix(id.as_bytes()), start: 0, start_high: 0, len: 0 };
        };
        let [b0, b1, b2, b3, ..] = (at as u64).to_le_bytes();
        self.ids.push_str(id);
        PlanId { prefix: prefix(id.as_bytes()), start: u32::from_le_bytes([b0, b1, b2, b3]), start_high, len }
    }

    fn id(&self, place: &PlannedRow) -> &str {
        id_of(&self.ids, place)
    }

    /// Makes the processor fetch all these rows and ids at once. They lie all over the file, so one by one each would be waited
    /// for.
    fn touch(&self, places: &[PlannedRow]) {
        let byte = |of: &[u8], at: usize| of.get(at).copied();
        let ids = places.iter().filter_map(|place| byte(self.ids.as_bytes(), place.id_start()));
        let mut touched = ids.fold(0, |all, byte| all ^ byte);
        if let PlanFile::Held(file) = &self.file {
            let rows = places.iter().filter_map(|place| byte(file, place.offset as usize));
            touched = rows.fold(touched, |all, byte| all ^ byte);
        }
        std::hint::black_box(touched);
    }

    /// Gives a row's bytes, as they are now.
    fn read_row<'b>(&'b self, place: &PlannedRow, bytes: &'b mut Vec<u8>) -> Result<&'b [u8], ResolveError> {
        let length = place.len as usize;
        let read = match &self.file {
            PlanFile::Held(file) => {
                let from = place.offset as usize;
                let row = file.get(from..).and_then(|rest| rest.get(..length));
                row.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            PlanFile::Opened(file) => {
                bytes.resize(length, 0);
                file.read_exact_at(bytes, u64::from(place.offset)).map(|()| bytes.as_slice())
            }
        };
        let batch = &self.pending.accepted.id;
        read.map_err(|error| ResolveError::Spool { batch: batch.to_string(), error })
    }

    /// The checksum that shows whether a row still says what it did. A held file can't change, so it needs none.
    fn sum(&self, cells: &Cells<'_>) -> u32 {
        match &self.file {
            PlanFile::Held(_) => 0,
            PlanFile::Opened(_) => cells.sum(),
        }
    }

    fn key(&self, place: &PlannedRow) -> Key {
        Key::new(&self.pending.accepted.id.client, place.kind, self.id(place))
    }

    /// Splits places at the first change of visitor at or behind `at`.
    fn split<'s>(&self, places: &'s [PlannedRow], at: usize) -> (&'s [PlannedRow], &'s [PlannedRow]) {
        let Some(last) = at.checked_sub(1).and_then(|last| places.get(last)) else {
            return (&[], places);
        };
        let after = places.get(at..).unwrap_or_default();
        let same = |place: &PlannedRow| order(&self.ids, place, last) == Ordering::Equal;
        let mut more = after.iter().take(ROWS_COUNTED).take_while(|place| same(place)).count();
        if more == ROWS_COUNTED {
            more = after.partition_point(same);
        }
        places.split_at_checked(at + more).unwrap_or((places, &[]))
    }

    /// Puts the rows in the order of their visitors, and those of one in the order of their lines.
    fn sort(&mut self) {
        let (ids, places) = (&self.ids, &mut self.places);
        sort(places, |a, b| order(ids, a, b).then(a.line.cmp(&b.line)));
    }

    /// Moves rows keyed by a linked pcId to the visitor that it leads to, if that visitor was known at the batch's place. Gives
    /// whether there are any. The places are sorted, because the store answers faster in the order of its keys.
    fn follow_links(&mut self, store: &dyn ProfileStore) -> Result<bool, ResolveError> {
        let (rows, middle) = (self.places.len(), self.places.len() / 2);
        let (low, high) = self.places.split_at(middle);
        let [low, high] = both(rows, || self.linked(low, store), || self.linked(high, store));
        let (low, high) = (low?, high?);
        let any = !low.is_empty() || !high.is_empty();
        for (from, linked) in [(0, low), (middle, high)] {
            for (at, canonical) in linked {
                let PlanId { prefix, start, start_high, len } = self.add_id(canonical.id());
                let kind = canonical.kind();
                if let Some(place) = self.places.get_mut(from + at) {
                    let (id_start, id_start_high, id_len) = (start, start_high, len);
                    *place = PlannedRow { prefix, id_start, id_start_high, id_len, kind, ..*place };
                }
            }
        }
        Ok(any)
    }

    /// Which of these places lead to another visitor, and to whom.
    fn linked(
        &self,
        places: &[PlannedRow],
        store: &dyn ProfileStore,
    ) -> Result<Vec<(usize, Key)>, ResolveError> {
        let rules = &self.pending.accepted.rules;
        let mut linked = vec![];
        for (chunk, from) in places.chunks(LINK_IDS).zip((0..).step_by(LINK_IDS)) {
            let keys: Vec<Key> = chunk.iter().map(|place| self.key(place)).collect();
            for ((value, key), at) in store.get(&keys)?.into_iter().zip(&keys).zip(from..) {
                let Some(value) = value else { continue };
                if !matches!(super::resolve::decoded(key, &value)?, Stored::Link { .. }) {
                    continue;
                }
                let mut view = View::new(store);
                let canonical = view.canonical(key)?;
                let Some(value) = view.get(&canonical)? else { continue };
                let Stored::Profile(profile) = super::resolve::decoded(&canonical, &value)? else { continue };
                let in_already = profile.applied_seq >= rules.seq;
                if canonical != *key
                    && (in_already || !profile.expired(rules.seq.millis(), rules.lifetime_ms))
                {
                    linked.push((at, canonical));
                }
            }
        }
        Ok(linked)
    }
}

/// Does both. With enough rows to be worth a thread, it does them at the same time.
fn both<T: Send>(rows: usize, one: impl FnOnce() -> T + Send, other: impl FnOnce() -> T) -> [T; 2] {
    if rows < SHARED_FROM_ROWS {
        return [one(), other()];
    }
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        match one.join() {
            Ok(one) => [one, other],
            Err(panicked) => std::panic::resume_unwind(panicked),
        }
    })
}

fn sort(places: &mut [PlannedRow], order: impl Fn(&PlannedRow, &PlannedRow) -> Ordering + Copy + Sync) {
    let rows = places.len();
    if rows < SHARED_FROM_ROWS {
        places.sort_unstable_by(order);
        return;
    }
    let (low, _, high) = places.select_nth_unstable_by(rows / 2, order);
    both(rows, || low.sort_unstable_by(order), || high.sort_unstable_by(order));
}

fn prefix(id: &[u8]) -> Prefix {
    [0, 8].map(|from| {
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(id.iter().skip(from)).for_each(|(to, from)| *to = *from);
        u64::from_be_bytes(bytes)
    })
}

fn id_of<'i>(ids: &'i str, place: &PlannedRow) -> &'i str {
    let start = place.id_start();
    ids.get(start..start.saturating_add(usize::from(place.id_len))).unwrap_or_default()
}

fn order(ids: &str, a: &PlannedRow, b: &PlannedRow) -> Ordering {
    (a.kind, a.prefix).cmp(&(b.kind, b.prefix)).then_with(|| id_of(ids, a).cmp(id_of(ids, b)))
}

/// The result of a part's step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Some rows are applied; there are more.
    More,
    /// The commit thread must resolve these visitors. Then the same step must be taken again.
    Resolve(Vec<Key>),
    /// All rows are applied.
    Done,
}

/// A range of a plan's visitors, applied chunk by chunk.
#[derive(Debug)]
pub struct Part<'p> {
    plan: &'p Plan,
    rest: &'p [PlannedRow],
    read: RowsRead,
    outcomes: Vec<RowOutcome>,
    counts: Counts,
    /// How many rows it has.
    rows: usize,
    /// How many rows were left when it last asked the commit thread to resolve one visitor with very many rows.
    asked_at: Option<usize>,
}

/// Rows that were read again. All their cells go into one text and are then borrowed from it, so no cell is allocated.
#[derive(Debug, Default)]
struct RowsRead {
    reader: RowReader,
    /// The bytes of the row that is being read.
    row: Vec<u8>,
    text: String,
    spans: Vec<Span>,
    /// Where the spans of each row end.
    ends: Vec<usize>,
}

/// A cell in the text.
#[derive(Debug)]
struct Span {
    attribute: usize,
    start: usize,
    end: usize,
}

impl RowsRead {
    fn cells<'t>(&'t self, header: &'t Header) -> Vec<Cell<'t>> {
        let cell = |span: &Span| Cell {
            attribute: span.attribute,
            name: header.names().get(span.attribute).map_or("", |name| name),
            value: self.text.get(span.start..span.end).unwrap_or_default(),
        };
        self.spans.iter().map(cell).collect()
    }

    fn rows<'c, 't>(&self, places: &[PlannedRow], cells: &'c [Cell<'t>]) -> Vec<Row<'c, 't>> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let row = |((place, &start), &end): ((&PlannedRow, &usize), &usize)| Row {
            line: place.line,
            cells: cells.get(start..end).unwrap_or_default(),
        };
        places.iter().zip(starts).zip(&self.ends).map(row).collect()
    }
}

impl<'p> Part<'p> {
    fn new(plan: &'p Plan, rest: &'p [PlannedRow]) -> Self {
        Self {
            plan,
            rest,
            rows: rest.len(),
            read: RowsRead::default(),
            outcomes: vec![],
            counts: Counts::default(),
            asked_at: None,
        }
    }

    /// Whether all its rows are applied.
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// What became of the rows so far.
    pub fn finish(self) -> (Vec<RowOutcome>, Counts) {
        debug_assert!(
            !self.is_done() || self.counts.total() == self.rows as u64,
            "each row of a part has one outcome: {:?}, {} rows",
            self.counts,
            self.rows
        );
        (self.outcomes, self.counts)
    }

    /// How many rows had which outcome so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Applies the next chunk: whole visitors, about [`CHUNK_ROWS`] rows.
    pub fn step(&mut self, store: &dyn ProfileStore) -> Result<Step, ResolveError> {
        let plan = self.plan;
        let (mut chunk, mut after) = plan.split(self.rest, CHUNK_ROWS.min(self.rest.len()));
        let Some(last) = chunk.last() else { return Ok(Step::Done) };
        if chunk.len() > plan.visitor_rows_max {
            let others = chunk.partition_point(|place| order(&plan.ids, place, last) == Ordering::Less);
            if others == 0 {
                return self.step_over(store, chunk, after);
            }
            (chunk, after) = self.rest.split_at_checked(others).unwrap_or((chunk, after));
        }
        let pending = &plan.pending;
        let rules = &pending.accepted.rules;

        plan.read_rows(chunk, &mut self.read)?;
        let cells = self.read.cells(&pending.header);
        let rows = self.read.rows(chunk, &cells);
        let visitors: Vec<&[PlannedRow]> =
            chunk.chunk_by(|a, b| order(&plan.ids, a, b) == Ordering::Equal).collect();
        let keys: Vec<Key> =
            visitors.iter().filter_map(|places| places.first()).map(|place| plan.key(place)).collect();
        let mut rest = rows.as_slice();
        let mut asked = Vec::with_capacity(keys.len());
        let mut left_to_writes = vec![];
        for (key, places) in keys.iter().zip(&visitors) {
            let (rows, others) = rest.split_at_checked(places.len()).unwrap_or((rest, &[]));
            // If a write took a visitor's ids apart while the plan was made, these may be only some of its rows, and no
            // lookup may see those alone. That write has resolved all of them, and noted so before it put anything.
            let left = plan.left_to_writes(places);
            if !left {
                asked.push(VisitorRows { key, rows });
            }
            left_to_writes.push(left);
            rest = others;
        }

        let mut applied = store.apply_rows(rules, &asked)?.into_iter();
        let swapped: Vec<Swapped> = left_to_writes
            .into_iter()
            .map_while(|left| if left { Some(Swapped::AlreadyIn) } else { applied.next() })
            .collect();
        let mut must_resolve = vec![];
        let (outcomes_before, counts_before) = (self.outcomes.len(), self.counts);
        for ((key, places), swapped) in keys.iter().zip(&visitors).zip(swapped) {
            if !self.note(store, key, places, &swapped)? {
                must_resolve.push(key.clone());
            }
        }
        if must_resolve.is_empty() {
            self.rest = after;
            return Ok(Step::More);
        }
        // The whole chunk is taken again once these are resolved. What was applied meanwhile is recognised then.
        self.outcomes.truncate(outcomes_before);
        self.counts = counts_before;
        Ok(Step::Resolve(must_resolve))
    }

    /// Asks the commit thread to resolve a visitor with very many rows, then notes what became of them.
    fn step_over(
        &mut self,
        store: &dyn ProfileStore,
        places: &'p [PlannedRow],
        after: &'p [PlannedRow],
    ) -> Result<Step, ResolveError> {
        let Some(key) = places.first().map(|place| self.plan.key(place)) else { return Ok(Step::Done) };
        let asked = self.asked_at == Some(self.rest.len());
        if (asked || self.plan.left_to_writes(places))
            && self.note(store, &key, places, &Swapped::AlreadyIn)?
        {
            self.rest = after;
            return Ok(Step::More);
        }
        self.asked_at = Some(self.rest.len());
        Ok(Step::Resolve(vec![key]))
    }

    /// Notes what became of one visitor's rows. False if only the commit thread can say.
    fn note(
        &mut self,
        store: &dyn ProfileStore,
        key: &Key,
        places: &[PlannedRow],
        swapped: &Swapped,
    ) -> Result<bool, ResolveError> {
        let (plan, pending) = (self.plan, &self.plan.pending);
        // A write that resolved this visitor noted what became of each row, before the store showed it.
        let resolved = || places.iter().map_while(|place| Some((place, plan.resolved(place.line)?)));
        if resolved().count() == places.len() {
            resolved().for_each(|(place, outcome)| self.add(place, outcome));
            return Ok(true);
        }
        match swapped {
            Swapped::MustResolve => return Ok(false),
            Swapped::One(outcome) => places.iter().for_each(|place| self.add(place, *outcome)),
            Swapped::Many(outcomes) => {
                places.iter().zip(outcomes).for_each(|(place, outcome)| self.add(place, *outcome));
            }
            Swapped::AlreadyIn => {
                let value = store.get(std::slice::from_ref(key))?.pop().flatten();
                let stored = value.as_ref().map(|value| super::resolve::decoded(key, value)).transpose()?;
                let mut row = RowsRead::default();
                for (n, place) in places.iter().enumerate() {
                    // Looked up again, because a write may have resolved it since.
                    let outcome = match (plan.resolved(place.line), &stored) {
                        (Some(outcome), _) => outcome,
                        (None, Some(Stored::Profile(profile))) => {
                            let rules = &pending.accepted.rules;
                            // Only what a batch with a time left alone depends on what the row says.
                            let cells = if rules.as_of.is_some() {
                                plan.read_rows(std::slice::from_ref(place), &mut row)?;
                                row.cells(&pending.header)
                            } else {
                                vec![]
                            };
                            outcome_of_row_already_in(profile, rules, n == 0, &cells)
                        }
                        (None, _) => return Ok(false),
                    };
                    self.add(place, outcome);
                }
            }
        }
        Ok(true)
    }

    fn add(&mut self, place: &PlannedRow, outcome: Outcome) {
        self.counts.add(outcome);
        if outcome != Outcome::Updated {
            self.outcomes.push(self.plan.outcome_of(place, outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ClientCode;
    use crate::model::profile::{LinkedId, Profile};
    use crate::model::seq::Seq;
    use crate::store::memory::MemoryStore;
    use crate::store::put_if_newer;

    /// Whatever a row is turned into once the file was verified, it is not applied.
    #[test]
    fn a_row_that_changes_after_it_was_verified_is_refused() {
        const FILE: &str = "batch=pcId,a,b\np,1,2\n";
        for changed in ["p,1,3\n", "q,1,2\n", "p,12,\n", "p,,12\n", "p,1\n\n\n", "p,%z2\n", "p"] {
            let folder = tempfile::tempdir().unwrap();
            let pending = Arc::new(Pending::of_text(folder.path(), "demo", 7, FILE));
            let store = MemoryStore::default();
            let key = Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, "p");
            let known = Stored::Profile(Profile::born_at(Seq::from_u64(1))).encode();
            put_if_newer(&store, &key, None, &known).unwrap();
            let [opened, held] = [0, 1 << 20].map(|held| Plan::make(&pending, &store, held).unwrap());
            std::fs::write(folder.path().join("7"), format!("batch=pcId,a,b\n{changed}")).unwrap();
            let refused = opened.part(0, 1).step(&store);
            assert!(
                matches!(refused, Err(ResolveError::Damaged { .. } | ResolveError::Spool { .. })),
                "{changed:?}"
            );
            assert_eq!(store.get(std::slice::from_ref(&key)).unwrap(), [Some(known)], "{changed:?}");
            // What is held is what was verified.
            held.part(0, 1).step(&store).unwrap();
            let stored = store.get(&[key]).unwrap().pop().flatten().unwrap();
            let Stored::Profile(profile) = stored.decode().unwrap() else { panic!("{stored:?}") };
            assert_eq!(profile.attributes.iter().map(|it| it.value).collect::<Vec<_>>(), ["1", "2"]);
        }
    }

    /// As many rows as are sorted on two threads; ids that are alike at their beginning, and several rows of one.
    #[test]
    fn parts_have_all_rows_in_the_order_of_their_ids_and_lines_and_none_has_half_a_visitor() {
        let folder = tempfile::tempdir().unwrap();
        let store = MemoryStore::default();
        let id = |n: usize| format!("customer-of-the-shop-{:05}", n * 7_919 % 30_011 % 20_000);
        let mut file = String::from("batch=thirdPartyId,a\n");
        (0..30_000).for_each(|n| file.extend([&id(n), ",1\n"]));
        let pending = Arc::new(Pending::of_text(folder.path(), "demo", 7, &file));
        let plan = Plan::make(&pending, &store, 1 << 20).unwrap();
        let mut expected: Vec<(String, u32)> = (2..).zip(0..30_000).map(|(line, n)| (id(n), line)).collect();
        expected.sort();
        for of in [1, 2, 3, 64, 30_000] {
            let mut all = vec![];
            for number in 0..of {
                let part = plan.part(number, of);
                let rows = part.rest.iter().map(|place| (plan.id(place).to_owned(), place.line));
                let before = all.len();
                all.extend(rows);
                if let (Some((last, _)), Some((first, _))) = (all[..before].last(), all.get(before)) {
                    assert_ne!(last, first, "part {number} of {of}");
                }
            }
            assert!(all == expected, "{of} parts");
        }
    }

    /// As many rows as are looked up on two threads; every third id leads to one of 500 visitors, who have several.
    #[test]
    fn rows_of_linked_ids_stand_with_those_of_their_visitor() {
        const ROWS: usize = 12_000;
        let folder = tempfile::tempdir().unwrap();
        let store = MemoryStore::default();
        let client = ClientCode::new("demo").unwrap();
        let pc_ids: Vec<String> = (0..ROWS).map(|n| format!("p{n:05}")).collect();
        let visitor = |n: usize| match n % 3 {
            0 => (IdKind::ThirdParty, format!("v{:03}", n % 500)),
            _ => (IdKind::Pc, pc_ids[n].clone()),
        };
        let put = |kind, id: &str, value: Stored<'_>| {
            put_if_newer(&store, &Key::new(&client, kind, id), None, &value.encode()).unwrap();
        };
        let seq = Seq::from_u64(1);
        let mut file = String::from("batch=pcId,a\n");
        for (n, pc_id) in pc_ids.iter().enumerate() {
            let (kind, id) = visitor(n);
            let listed = pc_ids.iter().skip(n % 500).step_by(500);
            let listed = listed.map(|id| LinkedId { kind: IdKind::Pc, id, seq });
            let ids = if kind == IdKind::Pc { vec![] } else { listed.collect() };
            put(kind, &id, Stored::Profile(Profile { ids, ..Profile::born_at(seq) }));
            if kind != IdKind::Pc {
                let target = Key::new(&client, kind, &id);
                put(IdKind::Pc, pc_id, Stored::Link { applied_seq: seq, target });
            }
            file.extend([pc_id, ",1\n"]);
        }
        let pending = Arc::new(Pending::of_text(folder.path(), "demo", 7, &file));
        let plan = Plan::make(&pending, &store, 1 << 20).unwrap();
        let mut expected: Vec<(IdKind, String, u32)> =
            (2..).zip(0..ROWS).map(|(line, n)| (visitor(n).0, visitor(n).1, line)).collect();
        expected.sort();
        let planned = plan.part(0, 1).rest.iter();
        let planned: Vec<_> =
            planned.map(|place| (place.kind, plan.id(place).to_owned(), place.line)).collect();
        assert!(planned == expected);
    }
}
