//! Takes in the files of batches that other nodes took in, so that they are here when their acceptance has its place.
//!
//! Promises: a file that this gives is what its acceptance says, to the byte; a batch whose file is lost on the way is given without,
//! and says so. A file that nobody accepts is dropped after an
//! hour. Each file takes a few dozen kilobytes of memory, and 16 bytes a row while it comes.

use crate::batch::csv::Header;
use crate::batch::index::Index;
use crate::engine::commit::NewBatch;
use crate::engine::commit::node::Files;
use crate::engine::commit::wire::{self, OfferedBatch};
use crate::engine::error::EngineError;
use crate::engine::ingest::intake::Intake;
use crate::engine::peers::Peers;
use crate::engine::shared::Shared;
use crate::engine::types::BatchSending;
use crate::order::listen::listen;
use crate::order::needed::{Needed, UNACCEPTED_LASTS};
use crate::order::pieces::{Part, Piece, UploadId};
use crate::order::record::RunId;
use crate::order::{Log, LogReader, Offset, OrderError, REACH_AGAIN, READ_LOOK, Record};
use crate::sync::{AtomicU64, Ordering, unpoisoned};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// How many pieces are read and not used, at most, instead of beginning anew behind them.
const PASSED_OVER_MAX: u64 = 16;

/// The files that came from other nodes.
pub(in crate::engine) struct FromAll {
    shared: Arc<Shared>,
    log: Arc<dyn Log>,
    /// This node's own run: its own uploads it has.
    own: RunId,
    here: Mutex<HashMap<UploadId, (NewBatch, Instant)>>,
    /// There is another file, or the reader is further.
    changed: Condvar,
    /// The reader has everything from this offset on.
    began: AtomicU64,
    /// The offset behind the last piece that was read.
    read: AtomicU64,
    /// Reads the files from before `began`.
    earlier: Mutex<Option<Earlier>>,
    /// Hears of all pieces.
    needed: Arc<Needed>,
    /// Hear when a file is here.
    peers: Arc<dyn Peers>,
}

/// Reads the files from before the reader began, one after the other, while the node catches up. To begin at each file anew
/// would take a tenth of a second each time.
struct Earlier {
    reader: Box<dyn LogReader>,
    /// It has everything from this offset on.
    began: Offset,
    /// The offset behind the last piece that it read.
    read: Offset,
    coming: Coming,
}

/// A piece that could not be taken in: of which upload, if it is known, and why.
type NotTaken = (Option<UploadId>, EngineError);

/// Files that have begun and not ended.
#[derive(Default)]
struct Coming(HashMap<UploadId, Arriving>);

struct Arriving {
    intake: Intake,
    pieces: u32,
    since: Instant,
}

impl FromAll {
    /// The files of a node that begins now.
    pub(in crate::engine) fn new(
        shared: Arc<Shared>,
        log: Arc<dyn Log>,
        own: RunId,
        needed: Arc<Needed>,
        peers: Arc<dyn Peers>,
    ) -> Self {
        let (began, read) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        let (here, earlier) = (Mutex::default(), Mutex::default());
        Self { shared, log, own, here, changed: Condvar::new(), began, read, earlier, needed, peers }
    }

    /// Reads what comes, until the daemon stops.
    pub(in crate::engine) fn run(&self) {
        let mut coming = Coming::default();
        while !self.shared.signals.is_stopping() {
            if let Err(error) = self.read_on(&mut coming) {
                tracing::warn!(%error, "the files of other nodes' batches cannot be read just now");
                self.shared.signals.wait(REACH_AGAIN);
            }
        }
        self.changed.notify_all();
    }

    fn read_on(&self, coming: &mut Coming) -> Result<(), OrderError> {
        let from = match self.read.load(Ordering::Acquire) {
            0 => self.log.ends()?.1,
            read => Offset(read),
        };
        let mut reader = listen(&self.log, from)?;
        self.began.fetch_min(from.0, Ordering::AcqRel);
        self.needed.begins(from);
        self.read.fetch_max(from.0, Ordering::AcqRel);
        while !self.shared.signals.is_stopping() {
            let Some(record) = reader.next(READ_LOOK)? else {
                self.drop_old(coming);
                continue;
            };
            let mut whole = false;
            match self.piece(coming, &record) {
                Ok(Some((upload, batch))) => {
                    unpoisoned(self.here.lock()).insert(upload, (batch, Instant::now()));
                    whole = true;
                }
                Ok(None) => {}
                // It is taken in once more when its acceptance comes.
                Err((_, error)) => {
                    tracing::warn!(%error, "the file of another node's batch could not be taken in")
                }
            }
            self.read.fetch_max(record.offset.next().0, Ordering::AcqRel);
            self.needed.read(record.offset.next());
            drop(unpoisoned(self.here.lock()));
            self.changed.notify_all();
            if whole {
                self.peers.took_in();
            }
        }
        Ok(())
    }

    /// Takes in a piece of another node's upload. Gives the file whose last piece it is.
    fn piece(&self, coming: &mut Coming, record: &Record) -> Result<Option<(UploadId, NewBatch)>, NotTaken> {
        let Piece { upload, part } = piece_of(record)?;
        match part {
            Part::Withdraw => self.needed.withdrawn(upload),
            _ => self.needed.seen(upload, record.offset),
        }
        if upload.run == self.own { Ok(None) } else { coming.take(&self.shared, upload, part) }
    }

    fn drop_old(&self, coming: &mut Coming) {
        coming.0.retain(|_, arriving| arriving.since.elapsed() < UNACCEPTED_LASTS);
        unpoisoned(self.here.lock()).retain(|_, (_, since)| since.elapsed() < UNACCEPTED_LASTS);
    }

    /// Waits for a file that the reader has yet to come to. None if it came past it without, or began behind it.
    fn wait_for(&self, offered: &OfferedBatch) -> Option<NewBatch> {
        let (first, last) = offered.pieces;
        let mut here = unpoisoned(self.here.lock());
        loop {
            if let Some((batch, _)) = here.remove(&offered.upload) {
                return Some(batch);
            }
            let (began, read) = (self.began.load(Ordering::Acquire), self.read.load(Ordering::Acquire));
            if first.0 < began || read > last.0 || self.shared.signals.is_stopping() {
                return None;
            }
            here = unpoisoned(self.changed.wait_timeout(here, READ_LOOK)).0;
        }
    }

    /// Reads a file whose pieces the reader did not have, and takes in the other files on the way, which are wanted next.
    fn fetch(&self, offered: &OfferedBatch) -> Result<Option<NewBatch>, OrderError> {
        // Only the thread that reads the order comes here. After an error it begins anew.
        let kept = unpoisoned(self.earlier.lock()).take();
        let (first, last) = offered.pieces;
        let goes_on = |it: &Earlier| {
            it.began <= first && it.read <= last && first.0.saturating_sub(it.read.0) <= PASSED_OVER_MAX
        };
        let mut earlier = match kept.filter(goes_on) {
            Some(kept) => kept,
            None => {
                let reader = listen(&self.log, first)?;
                Earlier { reader, began: first, read: first, coming: Coming::default() }
            }
        };
        while !self.shared.signals.is_stopping() {
            let Some(record) = earlier.reader.next(READ_LOOK)? else { continue };
            earlier.read = record.offset.next();
            let piece = piece_of(&record);
            match piece.and_then(|it| earlier.coming.take(&self.shared, it.upload, it.part)) {
                Ok(Some((upload, batch))) if upload == offered.upload => {
                    *unpoisoned(self.earlier.lock()) = Some(earlier);
                    return Ok(Some(batch));
                }
                Ok(Some((upload, batch))) => {
                    unpoisoned(self.here.lock()).insert(upload, (batch, Instant::now()));
                }
                Ok(None) => {}
                Err((_, EngineError::Full(why) | EngineError::SpoolFull(why))) => {
                    return Err(OrderError::Refused(format!(
                        "there is no room for the file of a batch: {why}"
                    )));
                }
                Err((_, EngineError::NoHandle)) => {
                    return Err(OrderError::Refused("too many files are open".into()));
                }
                Err((upload, error)) if upload == Some(offered.upload) => {
                    return Err(OrderError::NotTheSame(error.to_string()));
                }
                // Of an upload that was refused, perhaps. If it is wanted later, it is read anew.
                Err((_, error)) => {
                    tracing::debug!(%error, "a file on the way could not be taken in");
                    earlier.began = earlier.read;
                }
            }
            if record.offset >= last {
                return Err(OrderError::NotTheSame(format!(
                    "its pieces are not all between {first} and {last}"
                )));
            }
        }
        Ok(None)
    }
}

/// The files, for whoever reads the order.
pub(in crate::engine) struct TakenFiles(pub(in crate::engine) Arc<FromAll>);

impl Files for TakenFiles {
    fn take(&self, offered: &OfferedBatch, stands: &dyn Fn(&str)) -> Option<NewBatch> {
        let (files, accepted) = (&self.0, &offered.accepted);
        let mut batch = files.wait_for(offered);
        while batch.is_none() && !files.shared.signals.is_stopping() {
            match files.fetch(offered) {
                Ok(fetched) => batch = fetched,
                Err(error @ OrderError::NotTheSame(_)) => return files.without(offered, &error, stands),
                Err(OrderError::Refused(why)) => {
                    stands(&why);
                    files.shared.signals.wait(REACH_AGAIN);
                }
                Err(error) => {
                    tracing::warn!(%error, "the file of a batch cannot be read just now: the node waits for it");
                    files.shared.signals.wait(REACH_AGAIN);
                }
            }
        }
        let batch = batch?;
        if batch.sum() != accepted.sum() || batch.rows != accepted.rows {
            let (found, rows) = (batch.sum(), batch.rows);
            let why = format!(
                "it came with {found} and {rows} rows, and was accepted with {} and {} rows",
                accepted.sum(),
                accepted.rows
            );
            return files.without(offered, &why, stands);
        }
        Some(NewBatch { sending: BatchSending::of(accepted), ..batch })
    }
}

impl FromAll {
    /// A batch whose file did not come as it was accepted. The batch has its place all the same, and is held until another node
    /// gives its file. None if the daemon is stopping.
    fn without(
        &self,
        offered: &OfferedBatch,
        why: &dyn std::fmt::Display,
        stands: &dyn Fn(&str),
    ) -> Option<NewBatch> {
        let accepted = &offered.accepted;
        tracing::error!(client = %accepted.id.client, %why, "the file of a batch did not come as it was accepted: another node is asked for it");
        while !self.shared.signals.is_stopping() {
            let begun = self.shared.spool.begin(self.shared.now());
            match begun.and_then(|spool| spool.sync().map(|()| spool)) {
                Ok(spool) => {
                    let rules = accepted.rules.clone();
                    return Some(NewBatch {
                        client: accepted.id.client.clone(),
                        header: Header::from_parts(accepted.key_kind, vec![], rules.reading.clone()),
                        rules,
                        rows: accepted.rows,
                        spool,
                        index: Index::empty(),
                        sending: BatchSending::of(accepted),
                        lacking: Some(accepted.sum()),
                    });
                }
                Err(error) => {
                    stands(&error.to_string());
                    self.shared.signals.wait(REACH_AGAIN);
                }
            }
        }
        None
    }
}

fn piece_of(record: &Record) -> Result<Piece, NotTaken> {
    let unreadable = |error| format!("the piece at {} cannot be read: {error}", record.offset);
    Piece::decode(&record.value).map_err(|error| (None, EngineError::internal(unreadable(error))))
}

impl Coming {
    /// Takes in a piece. Gives the file whose last piece it is.
    fn take(
        &mut self,
        shared: &Shared,
        upload: UploadId,
        part: Part,
    ) -> Result<Option<(UploadId, NewBatch)>, NotTaken> {
        match self.part(shared, upload, part) {
            Err(error) => {
                drop(self.0.remove(&upload));
                Err((Some(upload), error))
            }
            Ok(taken) => Ok(taken),
        }
    }

    fn part(
        &mut self,
        shared: &Shared,
        upload: UploadId,
        part: Part,
    ) -> Result<Option<(UploadId, NewBatch)>, EngineError> {
        match part {
            Part::Begin(rules) => {
                let read = wire::begun(&rules);
                let (client, rules) = read.map_err(EngineError::internal)?;
                let mut intake = Intake::begin(shared, client, rules)?;
                intake.lift_limit();
                self.0.entry(upload).or_insert(Arriving { intake, pieces: 0, since: Instant::now() });
            }
            Part::Data { number, crc32c, bytes } => {
                let Some(arriving) = self.0.get_mut(&upload).filter(|arriving| arriving.pieces == number)
                else {
                    // The log has it twice, or its beginning is not wanted any more.
                    return Ok(None);
                };
                if crc32c::crc32c(&bytes) != crc32c {
                    return Err(EngineError::internal("a piece of a file does not match its checksum"));
                }
                arriving.intake.push(&bytes)?;
                arriving.pieces += 1;
            }
            Part::End { pieces } => {
                let Some(mut arriving) = self.0.remove(&upload).filter(|arriving| arriving.pieces == pieces)
                else {
                    return Ok(None);
                };
                arriving.intake.end()?;
                return Ok(Some((upload, arriving.intake.finish(shared)?)));
            }
            Part::Withdraw => drop(self.0.remove(&upload)),
        }
        Ok(None)
    }
}
