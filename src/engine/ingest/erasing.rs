//! Many visitors are erased by one call: their ids come as a file, and then each has an erasure of its own, as if it had been asked
//! for by itself (R12).
//!
//! Promises:
//! - Nobody is erased unless every line of the file is an id.
//! - The ids are in memory alone, within the limits of a batch file; no file of them could be left behind.
//! - Erasures come in groups of [`GROUP_IDS`], at the pace of a batch (R10). A group is journaled with one sync if the commit thread
//!   finds it together, and stands in the list of erasures with one more, before anybody hears of it.
//! - Whoever goes away is heard of between two groups. Those erased until then stay so, and the same file may be sent again.

use crate::batch::csv::{IdFile, IdFileError, Ids};
use crate::batch::encoding::Decoded;
use crate::engine::commit::{Answer, Request, VisitorWrite, WriteRules};
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::gates::{Slot, Who};
use crate::engine::ingest::arrival::{Announced, Arrival, Arriving, Piece, check_limits, unread};
use crate::engine::ingest::state::Ingest;
use crate::engine::ingest::throttle::LOOK_AGAIN;
use crate::engine::shared::{Shared, thread_point};
use crate::model::author::Author;
use crate::model::blocked::BlockedIds;
use crate::model::id::{ClientCode, IdKind, VisitorId};
use crate::model::seq::Seq;
use bytes::Bytes;
use std::io::BufRead;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// How many visitors are erased at a time, as many as rows are applied at a time.
const GROUP_IDS: usize = 128;
/// What the messages call the file.
const FILE: &str = "file of ids";

/// A file of ids on its way in.
pub struct IdsUpload {
    ingest: Arc<Ingest>,
    client: ClientCode,
    rules: WriteRules,
    arrival: Arrival<Ids>,
}

/// Visitors who are to be erased.
pub struct Erasing {
    ingest: Arc<Ingest>,
    client: ClientCode,
    rules: WriteRules,
    ids: Ids,
    place: Slot,
}

/// What became of one of them.
#[derive(Debug)]
pub struct Receipt<'a> {
    /// The line of its id.
    pub line: u32,
    /// Its id as it was sent.
    pub id: &'a str,
    /// The place of its erasure; none if the client had no such visitor. Or why it may not be erased.
    pub erased: Result<Option<Seq>, EngineError>,
}

/// What became of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    /// How many ids there are.
    pub ids: u64,
    /// How many visitors were erased.
    pub erased: u64,
    /// How many ids led to nobody.
    pub not_found: u64,
    /// How many may not be erased.
    pub failed: u64,
    /// How many were not tried after the first that failed.
    pub not_tried: u64,
}

impl IdsUpload {
    /// Begins to take a file in, unless what is `announced` of it is reason enough to refuse it.
    pub(in crate::engine) async fn begin(
        ingest: &Arc<Ingest>,
        who: &Who,
        client: &ClientCode,
        announced: Announced,
    ) -> Result<Self, EngineError> {
        let shared = &ingest.shared;
        let settings = shared.settings(client)?;
        announced.check(&shared.config().limits, FILE)?;
        shared.signals.go_on()?;
        if let Some(node) = ingest.commit.node() {
            node.takes_writes()?;
        }
        let place = ingest.erasings.take(who).await?;
        let rules = WriteRules::of(&settings, shared.profile_bytes_max());
        let worker = Arc::clone(shared);
        let arrival = Arrival::start(place, move |arriving| {
            take_in(&worker, announced, settings.blocked_ids, arriving)
        });
        let arrival = arrival.or_internal()?;
        Ok(Self { ingest: Arc::clone(ingest), client: client.clone(), rules, arrival })
    }

    /// Its place. Whoever waits for the body notes that on the place, and ends the call when asked to make room.
    pub fn place(&self) -> &Slot {
        self.arrival.place()
    }

    /// Takes the next bytes of the body.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        self.arrival.push(bytes).await
    }

    /// The body has ended: gives the visitors, if all lines are right. Nobody is erased yet.
    pub async fn finish(mut self) -> Result<Erasing, EngineError> {
        let ids = self.arrival.all().await?;
        let place = self.arrival.place().clone();
        Ok(Erasing { ingest: self.ingest, client: self.client, rules: self.rules, ids, place })
    }
}

impl Erasing {
    /// The place that the call has.
    pub fn place(&self) -> &Slot {
        &self.place
    }

    /// The kind of the ids.
    pub fn kind(&self) -> IdKind {
        self.ids.kind()
    }

    /// Erases them, and tells each group's receipts. After the first that fails, no further group is tried. Gives what became of
    /// all; `None` if `wanted` or `each` say that nobody waits for it any more. On a thread of the runtime that may block.
    pub fn erase(
        &self,
        wanted: impl Fn() -> bool,
        mut each: impl FnMut(&[Receipt<'_>]) -> ControlFlow<()>,
    ) -> Result<Option<Erased>, EngineError> {
        let ids = self.ids.len();
        let mut sum = Erased { ids: ids as u64, ..Erased::default() };
        let mut took = Duration::ZERO;
        for place in (0..ids).step_by(GROUP_IDS) {
            self.wait_for_turn(took, &wanted)?;
            if !wanted() {
                return Ok(None);
            }
            let began = Instant::now();
            let group: Vec<_> = self.ids.from(place).take(GROUP_IDS).collect();
            let receipts = self.erase_group(&group)?;
            took = began.elapsed();
            self.ingest.throttle.applied(group.len() as u64, Instant::now());
            for receipt in &receipts {
                match receipt.erased {
                    Ok(Some(_)) => sum.erased += 1,
                    Ok(None) => sum.not_found += 1,
                    Err(_) => sum.failed += 1,
                }
            }
            if each(&receipts).is_break() {
                return Ok(None);
            }
            if sum.failed > 0 {
                sum.not_tried = (ids - place - group.len()) as u64;
                break;
            }
        }
        Ok(Some(sum))
    }

    fn erase_group<'a>(&self, group: &[(u32, &'a str)]) -> Result<Vec<Receipt<'a>>, EngineError> {
        let kind = self.ids.kind();
        let ids: Result<Vec<_>, _> = group.iter().map(|(_, id)| VisitorId::sent(kind, id)).collect();
        // Nothing of an erased visitor stays, so nothing tells who erased it but the audit log.
        let by = Author::default();
        let asked = ids
            .or_internal()?
            .into_iter()
            .map(|id| Request::Visitor(self.client.clone(), id, VisitorWrite::Erase, by, self.rules));
        let ingest = &self.ingest;
        let answers = Handle::current().block_on(ingest.commit.ask_all(asked.collect()));
        let (mut noted, mut erased) = (vec![], vec![]);
        for answer in answers {
            erased.push(answer.and_then(|answer| match answer {
                Answer::Erased(written, keys) => {
                    noted.extend(written.seq.map(|seq| (seq, keys)));
                    Ok(written.seq.filter(|_| written.known))
                }
                other => Err(EngineError::internal(format!("an erasure was answered with {other:?}"))),
            }));
        }
        if let Err(error) = ingest.upkeep.list_erasures_blocking(&noted) {
            // They are erased, but a backup from before may bring them back: erased again, they are listed.
            let why = error.to_string();
            let unlisted =
                |it: Result<Option<Seq>, EngineError>| it.and_then(|_| Err(EngineError::NotYet(why.clone())));
            erased = erased.into_iter().map(unlisted).collect();
        }
        let receipts = group.iter().zip(erased);
        Ok(receipts.map(|(&(line, id), erased)| Receipt { line, id, erased }).collect())
    }

    /// Waits until the next group may be erased (R10): the rate of rows allows it, and no site call waits, or the thread has given way
    /// long enough. It does not wait for whoever has gone.
    fn wait_for_turn(&self, took: Duration, wanted: &impl Fn() -> bool) -> Result<(), EngineError> {
        let Ingest { shared, throttle, .. } = &*self.ingest;
        loop {
            shared.signals.go_on()?;
            let rate = shared.config().ingest.rows_per_second_at(shared.now());
            let left = throttle.until_next(rate, Instant::now());
            if left.is_zero() {
                break;
            }
            if !wanted() {
                return Ok(());
            }
            shared.signals.wait(left.min(LOOK_AGAIN));
        }
        throttle.give_way(took, shared.batches.pending_batches());
        Ok(())
    }
}

/// Takes a body in, on a thread that may block.
fn take_in(
    shared: &Shared,
    announced: Announced,
    blocked: BlockedIds,
    arriving: mpsc::Receiver<Piece>,
) -> Result<Ids, EngineError> {
    thread_point("ids-thread");
    let limits = shared.config().limits;
    let arriving = Arriving::new(arriving, FILE, announced.encoding, limits.body_bytes_limit);
    let file = Decoded::of(announced.encoding, arriving);
    let mut file = file.map_err(|error| error.downcast().unwrap_or_else(EngineError::internal))?;
    let (mut ids, mut came) = (IdFile::new(blocked), 0);
    loop {
        let bytes = match file.fill_buf() {
            Ok(piece) => {
                ids.push(piece)?;
                piece.len()
            }
            Err(error) => return Err(unread(error, &file)),
        };
        file.consume(bytes);
        came += bytes as u64;
        check_limits(&limits, FILE, came, ids.lines(), file.taken())?;
        if bytes == 0 {
            break;
        }
    }
    let ids = ids.finish()?;
    // The last line may lack its end.
    check_limits(&limits, FILE, came, ids.len() as u64, file.taken())?;
    Ok(ids)
}

impl From<IdFileError> for EngineError {
    fn from(error: IdFileError) -> Self {
        match error {
            IdFileError::Bad(bad) => Self::BadIds(Box::new(bad)),
            error => Self::BadBatch(error.to_string()),
        }
    }
}
