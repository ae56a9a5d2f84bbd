//! The changes of a client's visitors, or of all clients', as a feed: every applied write and every row of a batch, in the order of seqs.
//!
//! Promises:
//! - Nothing is missing and nothing comes out of order. Each event has a place, and a reader who has had everything up to a place
//!   can go on from there, also after a restart.
//! - Only what is durable and readable is told.
//! - The rows of a batch are told at the batch's place, from its kept upload, once the batch is complete: before that nobody knows
//!   what became of each. The feed waits there.
//! - What an erased visitor's writes said before the erasure is not told any more (R12).
//! - Memory is bounded by a piece of the journal, one group and one row. No lock is held and no segment stays open while the reader
//!   takes its time. Whoever is too slow for the journal is told so, and what to do.

use crate::batch::accepted::Accepted;
use crate::batch::outcomes_file::RowOutcome;
use crate::batch::progress::Known;
use crate::batch::resolve::View;
use crate::engine::commit::{CommitHandle, Readable};
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::gates::{Scarce, Slot, Who};
use crate::engine::read::report::Report;
use crate::engine::read::state::Reader;
use crate::engine::shared::{Shared, blocking};
use crate::journal::entry::{BatchAcceptedEntry, Entry, WriteEntry, WriteKind, decode_group, is_given_up};
use crate::journal::log::{LogError, Position, read_piece};
use crate::journal::snapshot::Snapshots;
use crate::layout;
use crate::model::author::Author;
use crate::model::batch::{BatchId, Counts, EmptyValues, Outcome};
use crate::model::id::{ClientCode, Key};
use crate::model::profile::{Attribute, Profile, Source, Stored, decode};
use crate::model::seq::Seq;
use crate::store::ProfileStore;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How much of the journal is read at once.
const PIECE_BYTES: usize = 256 << 10;
/// The line of a batch file's header: whoever has had this much of a batch has had none of its rows.
const HEADER_LINE: u32 = 0;
/// A seq that lies further ahead of the clock is one of another daemon.
const AHEAD_MAX: Duration = Duration::from_secs(5);

/// How far a reader is: it has had everything up to this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangePlace {
    /// The seq.
    pub seq: Seq,
    /// Of the batch with this seq, only what stands up to this line. Of a write, the visitors up to this number whom an id leaves.
    pub line: Option<u32>,
}

impl ChangePlace {
    /// Behind all that has this seq.
    pub const fn behind(seq: Seq) -> Self {
        Self { seq, line: None }
    }

    /// Reads `SEQ` or `SEQ-LINE`.
    pub fn parse(text: &str) -> Option<Self> {
        let (seq, line) = match text.split_once('-') {
            Some((seq, line)) => (seq, Some(number(line)?)),
            None => (text, None),
        };
        Some(Self { seq: Seq::from_u64(number(seq)?), line })
    }
}

/// A number in plain digits.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for ChangePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}-{line}", self.seq),
            None => self.seq.fmt(f),
        }
    }
}

/// What happened at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whoever has had this event has had everything up to here. The sweeper's removals have the place of the write before.
    pub place: ChangePlace,
    /// What.
    pub what: What,
}

impl Event {
    /// Whose visitors it is about; none if about everybody's.
    pub fn client(&self) -> Option<&str> {
        match &self.what {
            What::Write(Written { id, .. }) | What::Left { id, .. } => Some(id.client()),
            What::Erased(ids) | What::Swept(ids) => ids.first().map(Key::client),
            What::Withheld(client, _) => Some(client.as_str()),
            What::Batch(batch) => Some(batch.id.client.as_str()),
            What::Row(row) => Some(row.batch.id.client.as_str()),
            What::BatchEnd(batch, _) => Some(batch.client.as_str()),
            What::Gap { .. } => None,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A site call, a single update or a removal wrote to a visitor.
    Write(Written),
    /// A visitor was erased, with all these ids.
    Erased(Vec<Key>),
    /// What was stored under these ids had expired, and was removed.
    Swept(Vec<Key>),
    /// A write to a visitor who was erased since. These other ids, which were not erased, led to that visitor from then on.
    Withheld(ClientCode, Vec<Key>),
    /// The next write takes an id from this visitor and gives it to another. What earlier rows set by that id stands here once more:
    /// a row names the id alone, and whoever has it now need not be whoever had it then.
    Left {
        /// The visitor's canonical id.
        id: Key,
        /// All attributes that the visitor has then, but for those of a layer.
        attributes: Vec<(String, String)>,
        /// Those of the layer.
        layer: Vec<(String, String)>,
    },
    /// A batch was accepted. Its rows follow, if they are wanted.
    Batch(Arc<Accepted>),
    /// A row of a batch.
    Row(Row),
    /// All rows of a batch were told.
    BatchEnd(BatchId, Counts),
    /// What came after this seq, up to this event's place, can no longer be told. No feed says so, for it ends there instead; whoever
    /// passes a feed on and goes on behind the gap does.
    Gap {
        /// The place before it.
        since: ChangePlace,
    },
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What kind of write it was; none if an earlier program did not say.
    pub kind: Option<WriteKind>,
    /// The visitor's canonical id.
    pub id: Key,
    /// Whether the visitor began with it: whatever was under the id before does not count any more.
    pub created: bool,
    /// The attributes that it set.
    pub sets: Vec<(String, String)>,
    /// The attributes that it removed.
    pub removed: Vec<String>,
    /// The ids that it bound to the visitor.
    pub bound: Vec<Key>,
    /// All the visitor has then, where the write brought more than it names: a login merge, or a list of ids that was full.
    pub whole: Option<Whole>,
    /// Who made it, as far as the visitor's profile tells.
    pub by: Author,
}

/// A visitor after a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// All attributes.
    pub attributes: Vec<(String, String)>,
    /// All other ids.
    pub ids: Vec<Key>,
}

/// A row of a complete batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its batch.
    pub batch: Arc<Accepted>,
    /// Its line.
    pub line: u32,
    /// The id that it names, if that can be read and the visitor was not erased since.
    pub id: Option<Key>,
    /// The canonical id of the visitor to whom that id leads now; only in a feed of all clients.
    pub visitor: Option<Key>,
    /// Its outcome.
    pub outcome: Outcome,
    /// Why it failed, or `erased`: a word for programs.
    pub reason: Option<&'static str>,
    /// The attributes that it set.
    pub sets: Vec<(String, String)>,
    /// The attributes that it removed.
    pub removed: Vec<String>,
    /// If it undid something, and the visitor's history does not say any more what: the attributes that the visitor has now, but
    /// for those of a layer. Whoever applies the later changes to them has the same in the end.
    pub whole: Option<Vec<(String, String)>>,
}

/// How far one step came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is more.
    More,
    /// Everything up to this seq was told.
    CaughtUp(Seq),
    /// The rows of this batch come next, once it is complete.
    Waits(BatchId),
    /// The reader has enough.
    Enough,
}

/// A feed of changes, and how far it is.
pub struct Changes {
    shared: Arc<Shared>,
    commit: Arc<CommitHandle>,
    /// Whose visitors; none: everybody's.
    client: Option<ClientCode>,
    /// Whether each row of a batch is told.
    rows: bool,
    slot: Slot,
    journal: PathBuf,
    readable: watch::Receiver<Readable>,
    /// The reader has had everything up to here.
    told: ChangePlace,
    /// The seq of the last entry that was read.
    passed: Seq,
    /// The group that is read next.
    at: Position,
    /// How many of its entries are done.
    done: usize,
    /// The batch that comes next, if it was not complete when it was met.
    waits: Option<BatchId>,
}

impl Reader {
    /// Begins a feed.
    pub(in crate::engine) async fn changes(
        &self,
        who: &Who,
        client: &ClientCode,
        since: ChangePlace,
        rows: bool,
    ) -> Result<Changes, EngineError> {
        let (shared, commit) = (Arc::clone(&self.shared), Arc::clone(&self.commit));
        shared.settings(client)?;
        let slot = self.changes.take(who).await?;
        let client = client.clone();
        blocking(move || Changes::begin(shared, commit, Some(client), since, rows, slot)).await
    }

    /// Begins a feed of all clients, with the rows of batches. It is the daemon's own, and takes no caller's place. Blocks.
    pub(in crate::engine) fn all_changes(&self, since: ChangePlace) -> Result<Changes, EngineError> {
        let (shared, commit) = (Arc::clone(&self.shared), Arc::clone(&self.commit));
        let slot = Slot::of_the_daemon(Scarce::Changes, &shared.metrics);
        Changes::begin(shared, commit, None, since, true, slot)
    }
}

impl Changes {
    /// Its place among the feeds.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// How far the reader is.
    pub fn told(&self) -> ChangePlace {
        self.told
    }

    /// Says when there is more to read: it changes with each further group.
    pub fn news(&self) -> watch::Receiver<Readable> {
        self.readable.clone()
    }

    /// Finds where the feed begins. Blocks.
    fn begin(
        shared: Arc<Shared>,
        commit: Arc<CommitHandle>,
        client: Option<ClientCode>,
        since: ChangePlace,
        rows: bool,
        slot: Slot,
    ) -> Result<Self, EngineError> {
        let readable = commit.readable();
        let Readable { end, last } = *readable.borrow();
        // The clocks of several nodes need not agree.
        let alone = commit.node().is_none();
        let ahead_ms = u64::try_from(AHEAD_MAX.as_millis()).unwrap_or_default();
        if alone && since.seq > last && since.seq.millis() > shared.now().plus(ahead_ms) {
            return Err(EngineError::Refused(format!(
                "no write has the seq {} yet: it lies in the future",
                since.seq
            )));
        }
        let journal = shared.data_folder.join(layout::JOURNAL);
        let mut feed = Self {
            shared,
            commit,
            client,
            rows,
            slot,
            journal,
            readable,
            told: since,
            passed: Seq::ZERO,
            at: end,
            done: 0,
            waits: None,
        };
        // Of a batch that was not told whole, the entry itself is needed.
        let needed = if since.line.is_some() { before(since.seq) } else { since.seq };
        if since.seq < feed.commit.erased_until() || !feed.find(needed)? {
            return Err(feed.gone(feed.earliest()));
        }
        Ok(feed)
    }

    /// Finds a position with nothing before it that comes after this seq, as far on as that is quickly found. Gives whether there
    /// is one.
    fn find(&mut self, since: Seq) -> Result<bool, EngineError> {
        let end = self.at;
        let starts = Position::starts_in(&self.journal).or_internal()?;
        for start in starts.iter().rev() {
            let first = self.first_seq(*start, end)?;
            // A journal that still has its first segment is whole.
            if *start == Position::START || first.is_some_and(|first| first <= since) {
                self.at = *start;
                return Ok(true);
            }
        }
        for (position, last) in self.known_places(&starts) {
            if last <= since {
                (self.at, self.passed) = (position, last);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The positions of which it is known what came before them at most, last ones first: where a snapshot goes on, and where the
    /// journal begins.
    fn known_places(&self, starts: &[Position]) -> Vec<(Position, Seq)> {
        let Readable { end, last } = *self.readable.borrow();
        let Some(begin) = starts.first().copied() else { return vec![(end, last)] };
        let marks = Snapshots::marks_in(&self.shared.data_folder.join(layout::SNAPSHOTS));
        let marks =
            marks.into_iter().map(|mark| (Position::from_pair(mark.position), Seq::from_u64(mark.last_seq)));
        let first = self.first_seq(begin, end).ok().flatten();
        let mut places: Vec<_> = marks.filter(|(position, _)| *position >= begin).collect();
        places.push((begin, first.map_or(last, before)));
        places.sort_unstable_by(|a, b| b.cmp(a));
        places
    }

    /// The seq of the first entry from a position on that has one.
    fn first_seq(&self, from: Position, to: Position) -> Result<Option<Seq>, EngineError> {
        let mut at = from;
        while at < to {
            let piece = read_piece(&self.journal, at, to, 1).map_err(|error| self.unread(&error))?;
            for (_, payload) in piece.frames {
                let entries = decode_group(&payload).or_internal()?;
                if let Some(entry) = entries.iter().find(|entry| entry.seq() > Seq::ZERO) {
                    return Ok(Some(entry.seq()));
                }
            }
            at = piece.next;
        }
        Ok(None)
    }

    /// Tells what comes next: a piece of the journal, or the rows of a batch. Blocks.
    pub fn step(&mut self, each: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Step, EngineError> {
        self.shared.signals.go_on()?;
        if let Some(batch) = self.waits.take()
            && self.shared.batches.get(&batch).is_some_and(|known| !self.can_be_told(&known))
        {
            self.waits = Some(batch.clone());
            return Ok(Step::Waits(batch));
        }
        let Readable { end, last } = *self.readable.borrow();
        if self.at < end {
            let piece =
                read_piece(&self.journal, self.at, end, PIECE_BYTES).map_err(|error| self.unread(&error))?;
            for (behind, payload) in piece.frames {
                if is_given_up(&payload) {
                    let client = self.client.as_ref().map_or("(all)", ClientCode::as_str);
                    tracing::error!(client, "a feed of changes ends where damaged groups were given up");
                    return Err(self.gone(last));
                }
                let entries = decode_group(&payload).or_internal()?;
                for (n, entry) in entries.into_iter().enumerate().skip(self.done) {
                    if let Some(step) = self.entry(entry, each)? {
                        return Ok(step);
                    }
                    self.done = n + 1;
                }
                (self.at, self.done) = (behind, 0);
            }
            self.at = piece.next;
        }
        if self.at < end {
            return Ok(Step::More);
        }
        if last > self.told.seq {
            (self.told, self.passed) = (ChangePlace::behind(last), last);
        }
        Ok(Step::CaughtUp(last))
    }

    /// Tells one entry. Gives the step that ends there, if one does.
    fn entry(
        &mut self,
        entry: Entry,
        each: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Option<Step>, EngineError> {
        let seq = entry.seq();
        self.passed = self.passed.max(seq);
        match entry {
            Entry::Write(write) => {
                let sweep = write.cause.kind == WriteKind::Sweep;
                let is_told =
                    if seq > Seq::ZERO { self.has_told(seq) } else { !sweep || self.passed < self.told.seq };
                if is_told || !self.is_ours(&write) {
                    return Ok(None);
                }
                let behind = ChangePlace::behind(if seq > Seq::ZERO { seq } else { self.passed });
                if sweep {
                    if let Some(what) = self.swept(&write)?
                        && each(Event { place: behind, what }).is_break()
                    {
                        return Ok(Some(Step::Enough));
                    }
                } else {
                    let (left, what) = self.written(write)?;
                    let begun = self.told.line.filter(|_| self.told.seq == seq);
                    let rest =
                        (0_u32..).zip(left).filter(|(line, _)| begun.is_none_or(|begun| *line > begun));
                    let places = rest.map(|(line, left)| (ChangePlace { seq, line: Some(line) }, left));
                    for (place, what) in places.chain([(behind, what)]) {
                        if each(Event { place, what }).is_break() {
                            return Ok(Some(Step::Enough));
                        }
                        self.told = place;
                    }
                }
                self.told = behind;
                Ok(None)
            }
            Entry::BatchAccepted(batch) => {
                if self.has_told(seq)
                    || self.client.as_ref().is_some_and(|client| batch.client != client.as_str())
                {
                    return Ok(None);
                }
                self.batch(batch, each)
            }
            Entry::BatchCompleted(_)
            | Entry::BatchGivenUp(_)
            | Entry::Order(_)
            | Entry::BatchApplied(_)
            | Entry::BatchCounted(_) => Ok(None),
        }
    }

    /// Whether the reader has had all that has this seq.
    fn has_told(&self, seq: Seq) -> bool {
        seq < self.told.seq || seq == self.told.seq && self.told.line.is_none()
    }

    /// Whether a write is one to this client's visitors. All keys of a write are of one client.
    fn is_ours(&self, write: &WriteEntry) -> bool {
        let Some(ours) = &self.client else { return true };
        let client = write.changes.first().and_then(|change| change.key.split_first());
        client
            .is_some_and(|(length, rest)| rest.get(..usize::from(*length)) == Some(ours.as_str().as_bytes()))
    }

    /// What the sweeper removed, without the ids that were erased since. What else the write has are rows that it resolved.
    fn swept(&self, write: &WriteEntry) -> Result<Option<What>, EngineError> {
        let mut ids = vec![];
        for (key, value) in values(write)? {
            if let Stored::Tombstone { erased: false, .. } = decode(value).or_internal()? {
                ids.push(key);
            }
        }
        let hidden = self.hidden(&ids, self.passed)?;
        let mut hidden = hidden.into_iter();
        ids.retain(|_| hidden.next() != Some(true));
        Ok(Some(What::Swept(ids)).filter(|what| *what != What::Swept(vec![])))
    }

    /// The visitors whom an id left by a write, and what else the write did.
    fn written(&self, write: WriteEntry) -> Result<(Vec<What>, What), EngineError> {
        let seq = Seq::from_u64(write.seq);
        let mut profiles: Vec<(Key, Profile<'_>)> = vec![];
        let mut erased = vec![];
        for (key, value) in values(&write)? {
            match decode(value).or_internal()? {
                Stored::Tombstone { erased: true, applied_seq } if applied_seq == seq => erased.push(key),
                Stored::Profile(profile) if profile.applied_seq == seq => profiles.push((key, profile)),
                _ => {}
            }
        }
        if !erased.is_empty() {
            return Ok((vec![], What::Erased(erased)));
        }
        // Only a site call changes others too: those that let ids go.
        if profiles.is_empty() {
            return Err(EngineError::internal(format!("the write {seq} in the journal wrote to no visitor")));
        }
        let at = profiles.iter().position(|(_, profile)| profile.last_site == seq);
        let (id, profile) = profiles.swap_remove(at.unwrap_or_default());
        let left = self.left(&profiles, seq)?;
        let told_all = write.cause.kind != WriteKind::Unknown;
        let listed = |of: &dyn Fn(Seq) -> bool| -> Vec<Key> {
            let ids = profile.ids.iter().filter(|linked| of(linked.seq));
            ids.map(|linked| id.with_id(linked.kind, linked.id)).collect()
        };
        let visible = profile.visible();
        let set: Vec<&Attribute<'_>> = visible.iter().filter(|attribute| attribute.seq == seq).collect();
        let mut written = Written {
            kind: told_all
                .then_some(write.cause.kind)
                .or_else(|| set.first().and_then(|first| kind(first.source))),
            created: profile.born == seq,
            sets: set.into_iter().map(pair).collect(),
            removed: write.cause.removed.iter().map(|name| name.to_string()).collect(),
            bound: listed(&|of| of == seq),
            whole: (!told_all || write.cause.whole)
                .then(|| Whole { attributes: visible.iter().map(pair).collect(), ids: listed(&|_| true) }),
            by: profile.author(seq),
            id,
        };
        let ids: Vec<Key> = std::iter::once(&written.id)
            .chain(&written.bound)
            .chain(written.whole.iter().flat_map(|whole| &whole.ids))
            .cloned()
            .collect();
        let hidden = self.hidden(&ids, seq)?;
        let gone: Vec<&Key> =
            ids.iter().zip(&hidden).filter(|(_, hidden)| **hidden).map(|(id, _)| id).collect();
        written.bound.retain(|id| !gone.contains(&id));
        if hidden.first() == Some(&true) {
            let client = ClientCode::new(written.id.client()).or_internal()?;
            return Ok((left, What::Withheld(client, written.bound)));
        }
        if let Some(whole) = &mut written.whole {
            whole.ids.retain(|id| !gone.contains(&id));
        }
        Ok((left, What::Write(written)))
    }

    /// The visitors whom an id left by a write. One who was erased since keeps the place.
    fn left(&self, profiles: &[(Key, Profile<'_>)], seq: Seq) -> Result<Vec<What>, EngineError> {
        let ids: Vec<Key> = profiles.iter().map(|(id, _)| id.clone()).collect();
        let hidden = self.hidden(&ids, seq)?;
        let told = profiles.iter().zip(hidden).map(|((id, profile), hidden)| {
            if hidden {
                return Ok(What::Withheld(ClientCode::new(id.client()).or_internal()?, vec![]));
            }
            let pairs = |attributes: &[Attribute<'_>]| attributes.iter().map(pair).collect();
            let (attributes, layer) = (pairs(&profile.attributes), pairs(&profile.layer));
            Ok(What::Left { id: id.clone(), attributes, layer })
        });
        told.collect()
    }

    /// Tells a batch and its rows, as far as they are not told.
    fn batch(
        &mut self,
        entry: BatchAcceptedEntry,
        each: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Option<Step>, EngineError> {
        let seq = Seq::from_u64(entry.seq);
        let accepted = Accepted::from_entry(entry).map(Arc::new);
        let accepted =
            accepted.ok_or_else(|| EngineError::internal("a batch in the journal has unknown rules"))?;
        let behind = ChangePlace::behind(seq);
        if !self.rows {
            let event = Event { place: behind, what: What::Batch(accepted) };
            self.told = behind;
            return Ok(each(event).is_break().then_some(Step::Enough));
        }
        // Its files may have gone before the journal's segment.
        let known = self.shared.batches.get(&accepted.id).ok_or_else(|| self.gone(seq))?;
        if !self.can_be_told(&known) {
            self.waits = Some(accepted.id.clone());
            return Ok(Some(Step::Waits(accepted.id.clone())));
        }
        let begun = self.told.line.filter(|_| self.told.seq == seq);
        let report = Report::open(
            Arc::clone(&self.shared),
            Arc::clone(&known.accepted),
            begun.is_none(),
            self.slot.clone(),
        )?;
        let mut line = begun.unwrap_or(HEADER_LINE);
        if begun.is_none() {
            let place = ChangePlace { seq, line: Some(line) };
            if each(Event { place, what: What::Batch(Arc::clone(&accepted)) }).is_break() {
                return Ok(Some(Step::Enough));
            }
        }
        let mut enough = false;
        let read = report.each_row_told(None, |row, stored, erased| {
            if row.line <= line {
                return Ok(ControlFlow::Continue(()));
            }
            let told = self.row(&accepted, &report, row, stored, erased).map_err(io::Error::other)?;
            line = row.line;
            let place = ChangePlace { seq, line: Some(line) };
            let went = each(Event { place, what: What::Row(told) });
            enough = went.is_break();
            Ok(went)
        });
        self.told = ChangePlace { seq, line: Some(line) };
        match read {
            // Rows of erased visitors were overwritten meanwhile. It goes on behind the last row that was told.
            Err(EngineError::NotYet(_)) => return Ok(Some(Step::More)),
            read => read?,
        }
        if enough {
            return Ok(Some(Step::Enough));
        }
        self.told = behind;
        let end = What::BatchEnd(accepted.id.clone(), known.progress.counts());
        Ok(each(Event { place: behind, what: end }).is_break().then_some(Step::Enough))
    }

    /// Whether a batch is complete, and the outcomes of its rows are on this node.
    fn can_be_told(&self, known: &Known) -> bool {
        known.progress.completed().is_some() && !self.shared.batches.lacks_outcomes(&known.accepted.id)
    }

    /// One row.
    fn row(
        &self,
        batch: &Arc<Accepted>,
        report: &Report,
        row: &crate::batch::csv::Row<'_>,
        stored: Option<RowOutcome>,
        erased: bool,
    ) -> Result<Row, EngineError> {
        let header = report.header();
        let outcome = stored.map_or(Outcome::Updated, |stored| stored.outcome);
        let cells = row.content.as_ref().ok().filter(|_| !erased);
        let id = cells.map(|cells| Key::new(&batch.id.client, batch.key_kind, cells.id()));
        let erased = erased || self.hidden(id.as_slice(), batch.id.seq)?.contains(&true);
        let id = id.filter(|_| !erased);
        let visitor = match &id {
            Some(id) if self.client.is_none() => Some(self.visitor(id)?),
            _ => None,
        };
        let told = Row {
            batch: Arc::clone(batch),
            line: row.line,
            id,
            visitor,
            outcome,
            reason: if erased { Some("erased") } else { stored.and_then(RowOutcome::reason) },
            sets: vec![],
            removed: vec![],
            whole: None,
        };
        let Some(cells) = cells.filter(|_| !erased && outcome.applied()) else { return Ok(told) };
        if batch.rules.undoes.is_some() {
            return self.put_back(told);
        }
        let name = |attribute: usize| header.names().get(attribute).map(|name| name.to_string());
        let sets = cells.attributes().filter(|(attribute, _)| outcome.wrote(*attribute));
        let sets = sets.filter_map(|(attribute, value)| Some((name(attribute)?, value.to_owned())));
        let removes = batch.rules.empty_values == EmptyValues::Remove;
        let emptied = removes.then(|| cells.emptied()).into_iter().flatten();
        let emptied = emptied.filter(|attribute| outcome.wrote(*attribute));
        Ok(Row { sets: sets.collect(), removed: emptied.filter_map(name).collect(), ..told })
    }

    /// A row that undid something at its visitor. What that was is not in the file, but in the visitor's history. Nothing is told of a
    /// visitor who is gone or whom the id has left since: the change by which that came about tells it.
    fn put_back(&self, row: Row) -> Result<Row, EngineError> {
        let Some(id) = &row.id else { return Ok(row) };
        let mut view = View::new(&*self.shared.store);
        let reported = |error| self.shared.reported(error);
        let canonical = view.canonical(id).map_err(reported)?;
        let value = view.get(&canonical).map_err(reported)?;
        let stored = value.as_ref().map(|value| decode(value.as_slice())).transpose().or_internal()?;
        let Some(Stored::Profile(profile)) = stored else { return Ok(row) };
        let listed = profile.ids.iter().find(|linked| linked.kind == id.kind() && linked.id == id.id());
        let had_since = if canonical == *id { Some(profile.born) } else { listed.map(|linked| linked.seq) };
        if had_since.is_none_or(|since| since > row.batch.id.seq) {
            return Ok(row);
        }
        Ok(match profile.changed_at(row.batch.id.seq) {
            Some((set, removed)) => Row {
                sets: set.iter().map(pair).collect(),
                removed: removed.into_iter().map(str::to_owned).collect(),
                ..row
            },
            None => Row { whole: Some(profile.attributes.iter().map(pair).collect()), ..row },
        })
    }

    /// The canonical id of the visitor to whom an id leads now.
    fn visitor(&self, id: &Key) -> Result<Key, EngineError> {
        View::new(&*self.shared.store).canonical(id).map_err(|error| self.shared.reported(error))
    }

    /// Which of these ids were erased after a write.
    fn hidden(&self, ids: &[Key], at: Seq) -> Result<Vec<bool>, EngineError> {
        let keys: Vec<Key> = ids.iter().flat_map(|id| [id.clone(), id.erasure_mark()]).collect();
        let values = self.shared.store.get(&keys).map_err(|error| self.shared.reported(error))?;
        let is_after = |value: &Option<crate::model::profile::StoredBytes>| {
            let tombstone = value.as_ref().filter(|value| value.is_erased());
            tombstone.and_then(|value| value.applied_seq().ok()).is_some_and(|erased| erased > at)
        };
        // Asked afterwards: this is noted before the first tombstone goes.
        if at < self.commit.erased_until() {
            return Err(self.gone(Seq::ZERO));
        }
        Ok(values.chunks(2).map(|two| two.iter().any(is_after)).collect())
    }

    /// Why the journal can't be read. Segments may go at any time.
    fn unread(&self, error: &LogError) -> EngineError {
        match error {
            LogError::Missing { .. } => self.gone(self.earliest()),
            LogError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                self.gone(self.earliest())
            }
            error => EngineError::internal(error),
        }
    }

    /// The earliest seq after which the journal is still whole.
    fn earliest(&self) -> Seq {
        let starts = Position::starts_in(&self.journal).unwrap_or_default();
        let known = self.known_places(&starts).into_iter().map(|(_, last)| last);
        known.min().unwrap_or_default()
    }

    /// The error for a reader who is further back than anybody may read.
    fn gone(&self, earliest: Seq) -> EngineError {
        let earliest = earliest.max(self.commit.erased_until());
        EngineError::ChangesGone { since: self.told.seq, earliest }
    }
}

/// What came before this seq has this one at most.
const fn before(seq: Seq) -> Seq {
    Seq::from_u64(seq.get().saturating_sub(1))
}

/// The values that a write put, but for erasure marks, each with its key.
fn values(write: &WriteEntry) -> Result<Vec<(Key, &[u8])>, EngineError> {
    let mut values = vec![];
    for change in &write.changes {
        let key =
            Key::from_bytes(&change.key).ok_or_else(|| EngineError::internal("a key in the journal"))?;
        if key.without_mark() == key {
            values.push((key, change.value.as_slice()));
        }
    }
    Ok(values)
}

fn pair<'a>(attribute: impl std::borrow::Borrow<Attribute<'a>>) -> (String, String) {
    let attribute = attribute.borrow();
    (attribute.name.to_owned(), attribute.value.to_owned())
}

/// The kind of a write that set an attribute, for entries of earlier programs.
const fn kind(source: Source) -> Option<WriteKind> {
    match source {
        Source::Mbox => Some(WriteKind::Mbox),
        Source::Delivery => Some(WriteKind::Delivery),
        Source::SingleUpdate => Some(WriteKind::SingleUpdate),
        Source::BatchV1 | Source::BatchV2 => None,
    }
}
