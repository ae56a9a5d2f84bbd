//! A batch's body on its way in: decoded, written to the spool, parsed, checked and indexed as it arrives.
//!
//! Promises: memory per upload is bounded whatever is sent: a few chunks, a decoder's window, one row, 16 bytes a row and, where many
//! rows share an id, one profile. The limits hold for what has actually arrived and what it decodes to. An upload that is refused,
//! interrupted or dropped leaves nothing behind.

use crate::batch::accepted::Accepted;
use crate::batch::as_adobe::{AsAdobe, BadEscape};
use crate::batch::csv::{HeaderError, Mistaken};
use crate::batch::encoding::Decoded;
use crate::batch::form::{Leaves, Unwrapped, form_bytes_max};
use crate::batch::known_names::NewAttribute;
use crate::engine::commit::{Answer, NewBatch, SentToAll};
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::gates::{Slot, Who};
use crate::engine::ingest::arrival::{Announced, Arrival, Arriving, BATCH_FILE, Piece, check_limits, unread};
use crate::engine::ingest::dry_run::{self, DryRun};
use crate::engine::ingest::intake::Intake;
use crate::engine::ingest::state::Ingest;
use crate::engine::ingest::to_all::ToAll;
use crate::engine::shared::{Shared, blocking, thread_point};
use crate::engine::types::BatchSending;
use crate::engine::types::{BatchStatus, BatchTerms, BatchVersion};
use crate::model::batch::{BatchId, BatchReading, BatchRules, ConsecutiveV2, RowForm, RowReading};
use crate::model::id::ClientCode;
use crate::model::profile::Source;
use crate::model::seq::Seq;
use crate::telemetry::metrics::UnderWay;
use bytes::Bytes;
use std::io::{self, BufRead};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A batch that is durable and readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedBatch {
    /// The batch.
    pub batch: BatchStatus,
    /// Whether it had been accepted before, with the same key.
    pub before: bool,
}

/// A batch file on its way in. If this is dropped, nothing of the file stays.
pub struct Upload {
    ingest: Arc<Ingest>,
    who: Who,
    arrival: Arrival<TakenIn>,
}

/// A batch, and its place among the uploads. The place is dropped last: it is free once nothing of the upload is left.
struct TakenIn {
    batch: NewBatch,
    /// Its attributes that no profile had before.
    new: Vec<NewAttribute>,
    /// Where its file is on its way to the other nodes, if there are any.
    sent: Option<SentToAll>,
    _under_way: UnderWay,
    _place: Slot,
}

impl Upload {
    /// Begins an upload, unless what is `announced` of it is reason enough to refuse it.
    pub(in crate::engine) async fn begin(
        ingest: &Arc<Ingest>,
        who: &Who,
        client: &ClientCode,
        BatchTerms { version, empty_values, as_of }: BatchTerms,
        announced: Announced,
    ) -> Result<Self, EngineError> {
        let shared = &ingest.shared;
        let now = ingest.read.now();
        if let Some(ahead) = as_of.filter(|as_of| *as_of > now) {
            return Err(EngineError::Refused(format!(
                "the batch's time (asOf) is {}, but now it is {}: give the time at which its values were exported",
                ahead.iso_8601(),
                now.iso_8601()
            )));
        }
        let settings = shared.settings(client)?;
        let v2 = version == BatchVersion::V2;
        let rules = BatchRules {
            seq: Seq::ZERO,
            source: if v2 { Source::BatchV2 } else { Source::BatchV1 },
            creates: v2 && settings.v2_creates_profiles,
            consecutive_v2: settings.consecutive_v2,
            empty_values,
            lifetime_ms: settings.lifetime_ms,
            max_profile_bytes: shared.profile_bytes_max(),
            reading: RowReading::of_form(announced.rows, settings.blocked_ids),
            history_max: settings.history_max,
            as_of,
            undoes: None,
        };
        // Adobe has no batches in NDJSON.
        let reading = match announced.rows {
            RowForm::Csv => settings.batch_reading,
            RowForm::Ndjson => BatchReading::Kind,
        };
        Self::admitted(ingest, who, client, rules, (announced, reading)).await
    }

    /// Begins a batch that undoes another, whose file comes as its body. Its rows are read as those of the other one were.
    pub(in crate::engine) async fn begin_undo(
        ingest: &Arc<Ingest>,
        who: &Who,
        undone: &Accepted,
        for_all: bool,
    ) -> Result<Self, EngineError> {
        let shared = &ingest.shared;
        let client = &undone.id.client;
        let settings = shared.settings(client)?;
        let rules = BatchRules {
            seq: Seq::ZERO,
            creates: false,
            consecutive_v2: ConsecutiveV2::Merge,
            lifetime_ms: settings.lifetime_ms,
            max_profile_bytes: shared.profile_bytes_max(),
            history_max: settings.history_max,
            as_of: None,
            undoes: Some(undone.id.seq),
            ..undone.rules.clone()
        };
        let rows = undone.rules.reading.form();
        let announced = Announced { bytes: Some(undone.bytes), for_all, rows, ..Announced::default() };
        Self::admitted(ingest, who, client, rules, (announced, BatchReading::Kind)).await
    }

    async fn admitted(
        ingest: &Arc<Ingest>,
        who: &Who,
        client: &ClientCode,
        rules: BatchRules,
        (announced, reading): (Announced, BatchReading),
    ) -> Result<Self, EngineError> {
        let shared = &ingest.shared;
        announced.check(&shared.config().limits, BATCH_FILE)?;
        shared.signals.go_on()?;
        if let Some(node) = ingest.commit.node().filter(|_| announced.for_all) {
            // The file would be sent for nothing.
            node.takes_writes()?;
        }
        shared.spool.check_fits(announced.spooled_bytes_min())?;
        let place = ingest.uploads.take(who).await?;
        let disk = Arc::clone(shared);
        // The file system may have to ask another machine how full it is.
        blocking(move || disk.disk_space.for_upload(announced.spooled_bytes_min())).await?;
        let form = (announced, reading);
        Self::start(Arc::clone(ingest), who.clone(), client.clone(), rules, form, place).or_internal()
    }

    /// Starts the thread that takes the body in.
    fn start(
        ingest: Arc<Ingest>,
        who: Who,
        client: ClientCode,
        rules: BatchRules,
        form: (Announced, BatchReading),
        place: Slot,
    ) -> io::Result<Self> {
        let shared = Arc::clone(&ingest.shared);
        let under_way = shared.metrics.upload();
        let to_all = form.0.for_all.then(|| ingest.to_all()).flatten();
        let workers_place = place.clone();
        let arrival = Arrival::start(place, move |arriving| {
            let (batch, sent) = take_in(&shared, client, rules, form, to_all, arriving)?;
            let names = batch.header.names().iter().map(|name| &**name);
            let new = shared.batches.names.new_among(&batch.client, names);
            Ok(TakenIn { batch, new, sent, _under_way: under_way, _place: workers_place })
        })?;
        Ok(Self { ingest, who, arrival })
    }

    /// Its place among the uploads. Whoever waits for the body notes that on the place, and ends the upload when asked to
    /// make room.
    pub fn place(&self) -> &Slot {
        self.arrival.place()
    }

    /// Takes the next bytes of the body. Waits while the disk or the parser is behind.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        self.arrival.push(bytes).await
    }

    /// The body has ended: makes the batch durable and readable, and gives its id. If the key came before, it gives what was
    /// accepted then.
    pub async fn finish(mut self, sending: BatchSending) -> Result<AcceptedBatch, EngineError> {
        let TakenIn { mut batch, new, sent, _place, .. } = self.arrival.all().await?;
        batch.sending = sending;
        let answer = self.ingest.commit.ask_batch(batch, sent).await?;
        match answer {
            Answer::Accepted(known) => {
                self.ingest.shared.metrics.batch_accepted(&known.accepted.id.client);
                let (names, id) = (&self.ingest.shared.batches.names, &known.accepted.id);
                names.keep(id, new);
                let new = names.new_of(id);
                let batch = BatchStatus::of(&known, self.ingest.shared.now()).with_new(new);
                Ok(AcceptedBatch { batch, before: false })
            }
            Answer::AcceptedBefore(known) => {
                let new = self.ingest.shared.batches.names.new_of(&known.accepted.id);
                let batch = BatchStatus::of(&known, self.ingest.shared.now()).with_new(new);
                Ok(AcceptedBatch { batch, before: true })
            }
            Answer::KeyTaken(id) => Err(EngineError::KeyTaken(id.to_string())),
            other => Err(EngineError::internal(format!("a batch was answered with {other:?}"))),
        }
    }

    /// The body has ended: if it is the file of this held batch, the batch goes on.
    pub async fn put_back(mut self, id: &BatchId) -> Result<BatchStatus, EngineError> {
        let taken_in = self.arrival.all().await?;
        let (ingest, batch) = (Arc::clone(&self.ingest), id.clone());
        let put_back = blocking(move || {
            let TakenIn { batch: sent, _place, .. } = taken_in;
            ingest.put_back(&batch, sent)
        });
        put_back.await?;
        self.ingest.read.known_batch(id)
    }

    /// The body has ended: gives the outcomes that its rows would have now, and drops it. Nothing is written. Dry runs take
    /// turns, and while one waits, it is no upload any more.
    pub async fn try_out(mut self) -> Result<DryRun, EngineError> {
        let TakenIn { batch, new, .. } = self.arrival.all().await?;
        let (ingest, who) = (Arc::clone(&self.ingest), self.who.clone());
        drop(self);
        let turn = ingest.dry_runs.take(&who).await?;
        let place = ingest.read.reports.take(&who).await?;
        let tried = blocking(move || {
            let _turn = turn;
            dry_run::try_out(&ingest, batch, new, place)
        });
        tried.await
    }
}

/// Begins to send a file with these rules to all nodes.
type BeginToAll = Box<dyn FnOnce(&ClientCode, &BatchRules) -> Result<ToAll, EngineError> + Send>;

impl Ingest {
    /// How the file of an upload that begins gets to the other nodes; none on a single daemon.
    fn to_all(&self) -> Option<BeginToAll> {
        let (node, others) = (Arc::clone(self.commit.node()?), self.others.clone()?);
        Some(Box::new(move |client, rules| ToAll::begin(others, node.next_upload(), client, rules)))
    }
}

/// Takes a body in, on a thread that may block.
fn take_in(
    shared: &Shared,
    client: ClientCode,
    rules: BatchRules,
    (announced, reading): (Announced, BatchReading),
    to_all: Option<BeginToAll>,
    arriving: mpsc::Receiver<Piece>,
) -> Result<(NewBatch, Option<SentToAll>), EngineError> {
    thread_point("upload-thread");
    let limits = shared.config().limits;
    shared.disk_space.for_writes()?;
    let mut to_all = to_all.map(|begin| begin(&client, &rules)).transpose()?;
    let mut intake = Intake::begin(shared, client, rules)?;
    let mut as_adobe = (reading == BatchReading::Adobe).then(AsAdobe::default);
    let (mut came, mut bad_escape) = (0u64, None);
    let encoding = announced.encoding;
    let arriving = Arriving::new(arriving, BATCH_FILE, encoding, limits.body_bytes_limit);
    let file = Decoded::of(encoding, arriving);
    let file = file.map_err(|error| error.downcast().unwrap_or_else(EngineError::internal))?;
    // Adobe decodes a form once, and does not decode the values in it again.
    let leaves = if reading == BatchReading::Adobe { Leaves::Special } else { Leaves::None };
    let mut file = Unwrapped::of(file, leaves, form_bytes_max(limits.body_bytes_limit));
    let looked_at = file.fill_buf().map(drop);
    looked_at.map_err(|error| unread(error, file.source()))?;
    if !file.is_form() {
        announced.check_raw(&limits)?;
    }
    loop {
        let piece = match file.fill_buf() {
            Ok(piece) => piece,
            Err(error) => return Err(unread(error, file.source())),
        };
        let bytes = piece.len();
        let kept = match &mut as_adobe {
            Some(as_adobe) if bytes == 0 => as_adobe.finish().map(|()| piece),
            Some(as_adobe) => as_adobe.push(piece),
            None => Ok(piece),
        };
        bad_escape = bad_escape.or(kept.err());
        // A body that Adobe would refuse is read to its end, and nothing of it is kept.
        let kept = kept.ok().filter(|_| bad_escape.is_none()).unwrap_or_default();
        if bytes == 0 {
            if let Some(BadEscape { at }) = bad_escape {
                let why =
                    format!("a percent sign before byte {at} is no escape, write %25 where one is meant");
                return Err(EngineError::AsAdobe { says: "Unexpected error", why });
            }
            intake.end().map_err(|error| refused(error, reading))?;
            // The first line may be the last one.
            intake.check_attributes()?;
        } else {
            shared.disk_space.for_writes()?;
            intake.push(kept)?;
            if let Some(to_all) = &mut to_all {
                to_all.push(kept)?;
            }
            file.consume(bytes);
            came += bytes as u64;
        }
        check_limits(&limits, BATCH_FILE, came, intake.rows(), file.source().taken())?;
        if bytes == 0 {
            break;
        }
    }
    let batch = intake.finish(shared)?;
    Ok((batch, to_all.map(ToAll::end).transpose()?))
}

/// A file without a row may be the beginning of one that an ampersand cut off.
fn refused(error: HeaderError, reading: BatchReading) -> EngineError {
    match (reading, &error) {
        (
            BatchReading::Adobe,
            HeaderError::Empty | HeaderError::NoRow | HeaderError::Mistaken { what: Mistaken::OneLine, .. },
        ) => EngineError::AsAdobe { says: "Batch is empty", why: error.to_string() },
        _ => error.into(),
    }
}
