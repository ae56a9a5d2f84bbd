//! What every front door calls: [`Engine`]. Each of its calls is one step of a room; the rooms do the work.
//!
//! ```text
//! types.rs error.rs scarce.rs   what goes in and comes out, and why something was not done
//! heartbeat.rs priority.rs signals.rs health.rs
//!                               how the threads are: alive, how willing to make way, stopping, failed
//! gates.rs disk_space.rs        who may do how much, and what is refused on a full disk
//! peers.rs                      what one node of several needs of the others
//! shared.rs                     what every room may use; the order of the locks
//! commit/                       the commit thread: the only owner of the journal, the seqs and the order
//! driver/                       the loops of the other threads as state machines, which the tests run, too
//! open/                         what a start does with a data folder, and work on one that no daemon has open
//! upkeep/                       what keeps the disk in order while the daemon runs
//! read/                         what callers read
//! ingest/                       how batches come in, and how their rows get into the store
//! start.rs node.rs vitals.rs    building, starting and stopping all of it; what it tells those who watch
//! offline/                      a whole engine on a folder, for a check or a restore
//! mod.rs operator.rs            the calls, for visitors and batches; for operators
//! ```
//!
//! A room uses only what stands above it here; `tests/engine/circles.rs` enforces it.
//!
//! Promises: nothing here blocks an async thread; what is answered with success is durable and readable.

pub mod commit;
mod disk_space;
pub mod driver;
mod error;
pub mod gates;
mod health;
mod heartbeat;
pub mod ingest;
mod node;
pub mod offline;
pub mod open;
mod operator;
mod peers;
mod priority;
pub mod read;
mod scarce;
mod shared;
mod signals;
mod start;
#[cfg(test)]
mod tests;
mod types;
pub mod upkeep;
mod vitals;

use crate::clock::GuardedClock;
use crate::config::Config;
use crate::engine::read::search::FoundVisitors;
use crate::model::author::Author;
pub use crate::model::batch::BatchState;
use crate::model::batch::{BatchId, Outcome};
use crate::model::blocked::BlockedIds;
use crate::model::id::IdKind;
use crate::model::id::{ClientCode, Key, VisitorId};
use crate::model::seq::{Clock, Seq};
use crate::{batch::csv::RowPlace, batch::remarks::Remarks, folder};
use bytes::Bytes;
use commit::{Answer, Request, VisitorWrite, WriteRules};
pub use error::{EngineError, ErrorKind, Fatal, OpenError};
use gates::{Slot, Who};
pub use ingest::arrival::Announced;
pub use ingest::erasing::{Erased, Erasing, IdsUpload, Receipt};
pub use ingest::upload::{AcceptedBatch, Upload};
use node::Role;
pub use node::{NodeParts, OrderStatus};
pub use open::rebuild::Opening;
pub use peers::{PeerBody, Peers};
pub use read::batch_list::BatchPage;
use read::by_value::Wanted;
use read::changes::{ChangePlace, Changes};
use read::comparison::Comparison;
use read::distribution::FoundDistribution;
use read::export::Export;
pub use read::lookup::{look_up, look_up_at};
pub use read::provenance::Lines;
use read::report::{OutcomePage, Report, UploadedFile};
use read::statistics::Statistics;
use shared::blocking;
pub use start::SERVING_THREADS;
use start::{BroughtUp, Running};
use std::ops::ControlFlow;
use std::sync::Arc;
pub use types::{
    BatchSending, BatchStatus, BatchTerms, BatchVersion, CallIds, Readiness, SingleUpdate, SiteCall, Visitor,
    VisitorAttribute, VisitorChange, VisitorHistory, Written,
};
pub use upkeep::passing::PassingBackup;
pub use upkeep::task::Done;

/// The whole daemon behind its front doors. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Running>);

impl Engine {
    /// Opens the data folder, recovers what is there and starts the threads. The clock is believed whatever it says.
    pub fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_watched(config, GuardedClock::believing(clock), &Opening::default())
    }

    /// Opens the data folder by a clock that is checked. `opening` says meanwhile how far the start is.
    pub fn open_watched(config: Config, clock: GuardedClock, opening: &Opening) -> Result<Self, OpenError> {
        Self::open_as(config, clock, opening, None)
    }

    /// The same, as one node of several if `parts` say of which.
    pub fn open_as(
        config: Config,
        clock: GuardedClock,
        opening: &Opening,
        parts: Option<NodeParts>,
    ) -> Result<Self, OpenError> {
        folder::check(&config.server.data_folder)?;
        let running =
            BroughtUp::of(config, Arc::new(clock), opening)?.start(parts.map_or(Role::Alone, Role::Node))?;
        Ok(Self(Arc::new(running)))
    }

    /// Stops the threads. What was asked is answered, a batch that is being applied stays where it is, and the store is
    /// checkpointed.
    pub async fn stop(&self) {
        self.0.stop().await;
    }

    /// Stops the threads, from a thread that may block.
    pub fn stop_blocking(&self) {
        self.0.stop_blocking();
    }

    /// The ids that a client's site calls and single updates must not name a visitor by.
    pub fn blocked_ids(&self, client: &ClientCode) -> Result<BlockedIds, EngineError> {
        Ok(self.0.shared.settings(client)?.blocked_ids)
    }

    /// Writes what a site call brings.
    pub async fn site_call(&self, call: SiteCall) -> Result<Written, EngineError> {
        let rules = self.write_rules(&call.client)?;
        let made = |number, key: &Key| self.0.upkeep.erasures.made_id(number, key);
        let call = SiteCall { ids: call.ids.with_made(&call.client, made), ..call };
        // On a node of several the call counts from when it is read back.
        let _waits = self.0.commit.node().is_none().then(|| self.0.ingest.throttle.site_call());
        let answer = self.0.commit.ask(Request::Site(call, rules)).await?;
        self.written(answer)
    }

    /// Writes what a single update brings.
    pub async fn update(&self, update: SingleUpdate) -> Result<Written, EngineError> {
        let SingleUpdate { client, id, attributes, by } = update;
        self.write_visitor(client, id, VisitorWrite::Set(attributes), by).await
    }

    /// Writes to one visitor, if it is known. An erasure stands in the list of erasures before it is answered.
    pub async fn write_visitor(
        &self,
        client: ClientCode,
        id: VisitorId,
        write: VisitorWrite,
        by: Author,
    ) -> Result<Written, EngineError> {
        let rules = self.write_rules(&client)?;
        match self.0.commit.ask(Request::Visitor(client, id, write, by, rules)).await? {
            Answer::Erased(written, keys) => {
                self.0.upkeep.list_erasure(written.seq, keys).await?;
                Ok(written)
            }
            answer => self.written(answer),
        }
    }

    fn write_rules(&self, client: &ClientCode) -> Result<WriteRules, EngineError> {
        let shared = &self.0.shared;
        Ok(WriteRules::of(&shared.settings(client)?, shared.profile_bytes_max()))
    }

    fn written(&self, answer: Answer) -> Result<Written, EngineError> {
        let written = answer.written()?;
        self.0.shared.metrics.left_out(written.left_out, crate::telemetry::metrics::LeftOut::ProfileBytes);
        Ok(written)
    }

    /// Looks a visitor up.
    pub async fn read(&self, client: &ClientCode, id: &VisitorId) -> Result<Option<Visitor>, EngineError> {
        self.0.read.visitor(client, id).await
    }

    /// Waits until everything up to a place in the order is readable. What is acknowledged already is.
    pub async fn wait_for(&self, seq: Seq) -> Result<(), EngineError> {
        self.0.read.wait_for(seq).await
    }

    /// Looks a visitor up as it was after all writes up to a place in the order.
    pub async fn read_at(
        &self,
        client: &ClientCode,
        id: &VisitorId,
        at: Seq,
    ) -> Result<Option<Visitor>, EngineError> {
        self.0.read.visitor_at(client, id, at).await
    }

    /// Finds visitors by the beginning of an id of this kind, from behind an id of an earlier page on.
    pub async fn find(
        &self,
        client: &ClientCode,
        begins: (IdKind, &str),
        after: Option<&str>,
        most: usize,
    ) -> Result<FoundVisitors, EngineError> {
        self.0.read.find(client, begins, after, most).await
    }

    /// Finds visitors by the value of an attribute, from where an earlier page left off.
    pub async fn find_by_value(
        &self,
        who: &Who,
        client: &ClientCode,
        wanted: Wanted,
        after: Option<&str>,
        most: usize,
    ) -> Result<FoundVisitors, EngineError> {
        self.0.read.by_value(who, client, wanted, after, most).await
    }

    /// The visitors who were active last, newest first, from those before a place in the order on.
    pub async fn active(
        &self,
        client: &ClientCode,
        before: Option<Seq>,
        most: usize,
    ) -> Result<FoundVisitors, EngineError> {
        self.0.read.active(client, before, most).await
    }

    /// What a visitor's attributes were, as far as its profile keeps it.
    pub async fn history(
        &self,
        client: &ClientCode,
        id: &VisitorId,
    ) -> Result<Option<VisitorHistory>, EngineError> {
        self.0.read.history(client, id).await
    }

    /// The lines of the kept uploads that set a visitor's attributes.
    pub async fn lines(&self, who: &Who, visitor: &Visitor) -> Result<Lines, EngineError> {
        self.0.read.lines(who, visitor).await
    }

    /// Begins an export.
    pub async fn export(&self, who: &Who, client: &ClientCode) -> Result<Export, EngineError> {
        self.0.read.export(who, client).await
    }

    /// Begins to tell the changes of a client's visitors after a place in the order; with each row of its batches, or without.
    pub async fn changes(
        &self,
        who: &Who,
        client: &ClientCode,
        since: ChangePlace,
        rows: bool,
    ) -> Result<Changes, EngineError> {
        self.0.read.changes(who, client, since, rows).await
    }

    /// Begins to tell the changes of all clients' visitors after a place in the order, with each row of their batches. Blocks.
    pub fn all_changes(&self, since: ChangePlace) -> Result<Changes, EngineError> {
        self.0.read.all_changes(since)
    }

    /// What a client has. Counting the visitors takes about a second per million, so a count is used again for a while.
    pub async fn statistics(&self, who: &Who, client: &ClientCode) -> Result<Statistics, EngineError> {
        self.0.read.statistics(who, client).await
    }

    /// Begins an upload, unless what is `announced` of it is reason enough to refuse it.
    pub async fn accept_batch(
        &self,
        who: &Who,
        client: &ClientCode,
        terms: BatchTerms,
        announced: Announced,
    ) -> Result<Upload, EngineError> {
        Upload::begin(&self.0.ingest, who, client, terms, announced).await
    }

    /// Begins to take in the ids of visitors who are to be erased, unless what is `announced` of them is reason enough to refuse
    /// it.
    pub async fn take_ids(
        &self,
        who: &Who,
        client: &ClientCode,
        announced: Announced,
    ) -> Result<IdsUpload, EngineError> {
        IdsUpload::begin(&self.0.ingest, who, client, announced).await
    }

    /// Begins a batch that undoes another: it has the file of that one, and each row puts back what its visitor was before,
    /// where no later write has touched it. `for_all` says that it is to be accepted, and not only tried out.
    pub async fn undo_batch(&self, who: &Who, id: &BatchId, for_all: bool) -> Result<Upload, EngineError> {
        let (known, file) = self.0.read.file_to_undo(who, id).await?;
        let mut upload = Upload::begin_undo(&self.0.ingest, who, &known.accepted, for_all).await?;
        let (pieces, mut read) = tokio::sync::mpsc::channel(2);
        let reading = blocking(move || {
            file.pieces(|piece| match pieces.blocking_send(Bytes::copy_from_slice(piece)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        let taking = async {
            while let Some(piece) = read.recv().await {
                upload.push(piece).await?;
            }
            drop(read);
            Ok(())
        };
        let (read, taken): (_, Result<(), EngineError>) = tokio::join!(reading, taking);
        taken?;
        read?;
        Ok(upload)
    }

    /// Waits a moment for a batch that this node may not have got to yet, because it was accepted on another one.
    pub async fn wait_for_batch(&self, id: &BatchId) {
        if self.0.commit.node().is_some() && self.0.read.batch(id).is_none() {
            // Whether it came or not shows when it is asked for.
            drop(self.wait_for(id.seq).await);
        }
    }

    /// One batch.
    pub fn batch(&self, id: &BatchId) -> Option<BatchStatus> {
        self.0.read.batch(id)
    }

    /// One batch, as long as its client may ask for its status. Some clients keep it shorter than the batch, as Adobe does.
    pub fn reported_batch(&self, id: &BatchId) -> Option<BatchStatus> {
        self.0.read.batch_reported(id)
    }

    /// A client's batches in one state or in any, newest first, from those before a place on.
    pub fn batches(
        &self,
        client: &ClientCode,
        wanted: Option<BatchState>,
        before: Option<Seq>,
        most: usize,
    ) -> BatchPage {
        self.0.read.batches(client, wanted, before, most)
    }

    /// From when on lookups show a batch that is not complete; none where they show it already.
    pub fn shows_from(&self, batch: &BatchId) -> Option<crate::model::seq::Millis> {
        self.0.read.shows_from(batch)
    }

    /// A page of the outcomes of a complete batch's rows: those with one outcome, or all, from a place on that an earlier page
    /// gave.
    pub async fn outcome_page(
        &self,
        who: &Who,
        id: &BatchId,
        wanted: Option<Outcome>,
        from: Option<RowPlace>,
        rows_max: usize,
    ) -> Result<OutcomePage, EngineError> {
        self.0.read.outcome_page(who, id, wanted, from, rows_max).await
    }

    /// The quotes in a complete batch's file that enclose lines which could be rows.
    pub async fn quotes_that_take_in(&self, who: &Who, id: &BatchId) -> Result<Remarks, EngineError> {
        self.0.read.quotes_that_take_in(who, id).await
    }

    /// Whether a batch is complete in the order of several nodes, and this one has yet to apply it, so that it has no outcomes.
    pub fn lacks_outcomes(&self, id: &BatchId) -> bool {
        self.0.shared.batches.lacks_outcomes(id)
    }

    /// A place among the reports, for one that another node makes.
    pub async fn report_place(&self, who: &Who) -> Result<Slot, EngineError> {
        self.0.read.reports.take(who).await
    }

    /// Begins to tell the outcomes of a complete batch's rows.
    pub async fn report(&self, who: &Who, id: &BatchId) -> Result<Report, EngineError> {
        self.0.read.report(who, id).await
    }

    /// Opens a batch's upload as it was sent, except that the rows of erased visitors read `erased`.
    pub async fn uploaded_file(&self, who: &Who, id: &BatchId) -> Result<UploadedFile, EngineError> {
        self.0.read.uploaded_file(who, id).await
    }

    /// Compares a batch with another of its client: the one that is named, or the one before. None if there is none before.
    pub async fn compare(
        &self,
        id: &BatchId,
        with: Option<&BatchId>,
    ) -> Result<Option<Comparison>, EngineError> {
        self.0.read.compare(id, with).await
    }

    /// The attributes of a batch, as the first line of its file names them.
    pub async fn columns(&self, id: &BatchId) -> Result<Vec<Box<str>>, EngineError> {
        self.0.read.columns(id).await
    }

    /// How often an attribute has which value in a batch.
    pub async fn distribution(
        &self,
        who: &Who,
        id: &BatchId,
        attribute: &str,
    ) -> Result<FoundDistribution, EngineError> {
        self.0.read.distribution(who, id, attribute).await
    }

    /// An error unless a batch is held.
    pub fn check_held(&self, id: &BatchId) -> Result<(), EngineError> {
        self.0.ingest.check_held(id)
    }

    /// Gives up a batch that is held. Each of its rows counts as failed, and all other batches go on.
    pub async fn give_up_batch(&self, id: &BatchId) -> Result<BatchStatus, EngineError> {
        self.0.ingest.give_up_batch(id).await
    }
}
