//! The apply thread: carries out what the [apply loop](ApplyLoop) and its two [writers](crate::engine::driver::writer) want done.
//!
//! Promises: a batch is applied on two threads; it makes way for site calls and keeps to the rate that is set (R10).

use crate::batch::accepted::Accepted;
use crate::batch::apply::Plan;
use crate::batch::pending::Pending;
use crate::batch::queue::Turn;
use crate::engine::commit::Request;
use crate::engine::driver::apply::{Action, ApplyLoop, Event, Unapplied, completion};
use crate::engine::driver::writer::Parts;
use crate::engine::error::Fatal;
use crate::engine::ingest::in_hand::{BatchInHand, Employer, Written, write};
use crate::engine::ingest::state::Ingest;
use crate::engine::ingest::throttle::LOOK_AGAIN;
use crate::engine::read::lookup::hidden;
use crate::engine::shared::thread_point;
use crate::model::batch::Counts;
use crate::model::id::Key;
use crate::model::seq::Seq;
use crate::store::Reach;
use crate::sync::{Mutex, MutexGuard, Ordering, lock};
use crate::telemetry;
use crate::telemetry::metrics::ApplyingWaits;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Two writers: what sled gains from on two cores.
const WRITERS: usize = 2;

/// Applies batches until the queue is closed.
pub(in crate::engine) fn run(ingest: &Arc<Ingest>) {
    std::thread::scope(|scope| ApplyThread::new(ingest, SecondWriter::start(scope, ingest)).run());
}

struct ApplyThread<'i> {
    ingest: &'i Arc<Ingest>,
    second: SecondWriter,
    batch: Option<InHand>,
    /// Keeps a rebuild from starting.
    no_rebuild: Option<MutexGuard<'i, ()>>,
}

/// The batch whose turn it is.
struct InHand {
    batch: BatchInHand,
    began: Instant,
    shared: Option<Arc<Shared>>,
    /// Shares that are applied and not yet reported to the loop.
    applied: VecDeque<Applied>,
    planned: Duration,
    applied_after: Duration,
    /// Whether it was complete before.
    again: bool,
}

/// A batch that the writers share.
struct Shared {
    plan: Plan,
    parts: Mutex<Parts>,
}

/// The result of a writer's share.
type Applied = Result<Written, Unapplied>;

impl<'i> ApplyThread<'i> {
    fn new(ingest: &'i Arc<Ingest>, second: SecondWriter) -> Self {
        Self { ingest, second, batch: None, no_rebuild: None }
    }

    fn run(mut self) {
        let (mut apply, mut event, start) = (ApplyLoop::default(), Event::Done, Instant::now());
        loop {
            event = match apply.step(event, start.elapsed()) {
                Action::End => return self.let_go(),
                Action::FindTurn => self.find_turn(&apply),
                Action::Wait(time) => {
                    self.ingest.shared.signals.wait(time);
                    Event::Done
                }
                action => self.carry_out(action).unwrap_or_else(Event::Failed),
            };
        }
    }

    fn find_turn(&mut self, apply: &ApplyLoop) -> Event {
        self.let_go();
        // While the thread waits for the next batch, the outcomes of the last one would only take memory.
        self.batch = None;
        thread_point("apply-thread");
        let ingest = self.ingest;
        ingest.shared.health.apply.idle();
        let waits = |batch: Seq| apply.waits(batch);
        let pending =
            match ingest.shared.batches.next_not_held(|batch| ingest.is_hidden(batch) || waits(batch.id.seq))
            {
                Turn::Of(pending) => pending,
                Turn::Held => return Event::NoneDue,
                Turn::Closed => return Event::Closed,
            };
        ingest.applying_batch.store(pending.accepted.id.seq.get(), Ordering::SeqCst);
        self.batch.insert(InHand::new(pending)).batch.turn()
    }

    /// Frees the plan and lets a rebuild start.
    fn let_go(&mut self) {
        if let Some(batch) = &mut self.batch {
            batch.shared = None;
        }
        self.no_rebuild = None;
        self.ingest.applying_batch.store(0, Ordering::SeqCst);
    }

    fn carry_out(&mut self, action: Action) -> Result<Event, Unapplied> {
        if action.ends_batch() {
            self.let_go();
        }
        let ingest = self.ingest;
        if let Action::Fail(why) = action {
            ingest.shared.health.fail(&Fatal::new(why));
            return Ok(Event::Done);
        }
        let batch = self.batch.as_mut().ok_or_else(|| Unapplied::Refused("no batch is in hand".into()))?;
        let (pending, in_hand) = (Arc::clone(&batch.batch.pending), &mut batch.batch);
        match action {
            Action::GetReady => {
                if !ingest.shared.wait_for_disk_space() || !ingest.wait_while_rebuilding() {
                    return Err(Unapplied::Stopping);
                }
                self.no_rebuild = Some(lock(&ingest.upkeep.applying));
                ingest.shared.health.apply.beat();
            }
            Action::Plan => return batch.plan(ingest),
            Action::ApplyShares => return batch.apply_shares(ingest, &self.second),
            Action::WriteOutcomes => return in_hand.write_outcomes(&ingest.shared.spool),
            Action::MakeDurable => {
                ingest.shared.health.apply.beat();
                return Ok(Event::Durable(ingest.upkeep.make_store_durable()?));
            }
            Action::CheckHeld => return in_hand.check_held(),
            Action::Complete(counts, reach) => batch.complete(ingest, counts, reach)?,
            Action::Report(counts) => batch.report(ingest, &counts),
            Action::Hold { in_short, why } => pending.hold(&in_short, &why),
            Action::Postpone(why) => {
                tracing::debug!(batch = %pending.accepted.id, %why, "a batch waits for a later one");
            }
            Action::Refuse { refusals, stuck, why } => {
                tracing::error!(batch = %pending.accepted.id, refusals, %why, "a batch could not be applied; it will be tried again");
                pending.progress.stuck(stuck);
            }
            Action::FindTurn | Action::Wait(_) | Action::Fail(_) | Action::End => {}
        }
        Ok(Event::Done)
    }
}

impl InHand {
    fn new(pending: Arc<Pending>) -> Self {
        let (applied, zero, began) = (VecDeque::new(), Duration::ZERO, Instant::now());
        let batch = BatchInHand::new(pending);
        Self { batch, began, shared: None, applied, planned: zero, applied_after: zero, again: false }
    }

    fn plan(&mut self, ingest: &Ingest) -> Result<Event, Unapplied> {
        self.began = Instant::now();
        let pending = Arc::clone(&self.batch.pending);
        let plan = Plan::make(&pending, &*ingest.shared.store, ingest.shared.config().held_bytes_max())?;
        self.planned = self.began.elapsed();
        pending.progress.begin(ingest.shared.now());
        pending.progress.add(&plan.decided().1);
        let planned = self.batch.planned(&plan, WRITERS);
        let parts = Mutex::new(Parts::of_rows(plan.rows(), WRITERS));
        self.shared = Some(Arc::new(Shared { plan, parts }));
        Ok(planned)
    }

    fn apply_shares(&mut self, ingest: &Arc<Ingest>, second: &SecondWriter) -> Result<Event, Unapplied> {
        if self.applied.is_empty()
            && let Some(shared) = &self.shared
        {
            self.applied.extend(second.apply_beside(shared, || apply_share(ingest, shared, false)));
            self.applied_after = self.began.elapsed();
        }
        let applied = self.applied.pop_front();
        let applied = applied.ok_or_else(|| Unapplied::Refused("there is no plan".into()))?;
        Ok(self.batch.applied(applied?))
    }

    fn complete(&mut self, ingest: &Ingest, counts: Counts, reach: Reach) -> Result<(), Unapplied> {
        self.batch.pending.progress.stuck(false);
        let id = &self.batch.pending.accepted.id;
        let (complete, again) = completion(&ingest.shared.batches, id, counts, reach, ingest.shared.now());
        self.again = again;
        ingest.commit.ask_blocking(complete)?;
        Ok(())
    }

    fn report(&self, ingest: &Ingest, counts: &Counts) {
        let accepted = &self.batch.pending.accepted;
        if !self.again {
            ingest.shared.metrics.batch_complete(&accepted.id.client, counts);
        }
        ingest.shared.spool.remove_index(accepted.spool);
        tracing::info!(
            batch = %accepted.id,
            rows = counts.total(),
            updated = counts.updated,
            created = counts.created,
            not_found = counts.not_found,
            ignored = counts.ignored,
            failed = counts.failed,
            planned_ms = telemetry::ms(self.planned),
            applied_ms = telemetry::ms(self.applied_after),
            took_ms = telemetry::ms(self.began.elapsed()),
            again = self.again,
            "a batch is complete"
        );
    }
}

/// The other writer. It stays for good: the memory that a thread allocates and the store keeps is slow to be used again
/// once the thread is gone.
struct SecondWriter {
    begun: Sender<Arc<Shared>>,
    applied: Receiver<Applied>,
}

impl SecondWriter {
    fn start<'s>(scope: &'s Scope<'s, '_>, ingest: &'s Arc<Ingest>) -> Self {
        let ((begun, next), (done, applied)) = (channel::<Arc<Shared>>(), channel());
        let apply_shares = move || {
            for shared in next {
                thread_point("apply-2-thread");
                let applied = apply_share(ingest, &shared, true);
                // Free the plan before the next batch makes its own: two plans would need twice the memory.
                drop(shared);
                if done.send(applied).is_err() {
                    return;
                }
            }
        };
        let run = move || {
            if catch_unwind(AssertUnwindSafe(apply_shares)).is_err() {
                ingest.shared.health.fail(&Fatal::new("the second writer's thread panicked"));
            }
        };
        // Without this thread no batch can be applied, so the daemon stops.
        if let Err(error) = std::thread::Builder::new().name("apply-2".into()).spawn_scoped(scope, run) {
            ingest
                .shared
                .health
                .fail(&Fatal::new(format!("there is no thread for the second writer: {error}")));
        }
        Self { begun, applied }
    }

    /// Has it apply its share while `own` is done here.
    fn apply_beside(&self, shared: &Arc<Shared>, own: impl FnOnce() -> Applied) -> [Applied; WRITERS] {
        let asked = self.begun.send(Arc::clone(shared));
        let own = own();
        let gone = || Unapplied::Refused("the second writer is gone".into());
        let theirs = match asked {
            Ok(()) => self.applied.recv().unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        [own, theirs]
    }
}

/// Applies a writer's share of a batch.
fn apply_share(ingest: &Arc<Ingest>, shared: &Shared, from_back: bool) -> Applied {
    let Shared { plan, parts } = shared;
    let write = || {
        write(plan, parts, from_back, &*ingest.shared.store, &ForBatch { ingest, pending: plan.pending() })
    };
    catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| {
        lock(parts).give_up();
        Err(Unapplied::Refused("a writer panicked".into()))
    })
}

struct ForBatch<'i> {
    ingest: &'i Ingest,
    pending: &'i Pending,
}

impl Employer for ForBatch<'_> {
    fn wait_for_turn(&self, took: Duration) -> Result<(), Unapplied> {
        if self.ingest.upkeep.rebuild.is_running() {
            return Err(Unapplied::Rebuilding);
        }
        if self.pending.held().is_some() {
            return Err(Unapplied::Held);
        }
        if self.ingest.wait_for_turn(took) { Ok(()) } else { Err(Unapplied::Stopping) }
    }

    fn applied(&self, counts: &Counts) {
        self.pending.progress.add(counts);
        self.ingest.throttle.applied(counts.total(), Instant::now());
        self.ingest.shared.metrics.rows_applied(counts.total());
    }

    fn resolve(&self, keys: Vec<Key>) -> Result<(), Unapplied> {
        let client = self.pending.accepted.id.client.clone();
        self.ingest.commit.ask_blocking(Request::Resolve(client, keys))?;
        Ok(())
    }
}

impl Ingest {
    /// Waits until the next chunk of rows may be applied (R10): the rate allows it, no site call waits or the thread has
    /// given way long enough for the time that its last step took, and the disk has space. False if the daemon is stopping.
    fn wait_for_turn(&self, took: Duration) -> bool {
        self.shared.health.apply.beat();
        loop {
            let rate = self.shared.config().ingest.rows_per_second_at(self.shared.now());
            let left = self.throttle.until_next(rate, Instant::now());
            if left.is_zero() {
                break;
            }
            let began = Instant::now();
            self.shared.signals.wait(left.min(LOOK_AGAIN));
            self.shared.metrics.applying_waited(ApplyingWaits::Rate, began.elapsed());
            self.shared.health.apply.beat();
            if self.shared.signals.is_stopping() {
                return false;
            }
        }
        let waited = self.throttle.give_way(took, self.shared.batches.pending_batches());
        self.shared.metrics.applying_waited(ApplyingWaits::SiteCalls, waited);
        self.shared.health.apply.idle();
        let room = self.shared.wait_for_disk_space();
        self.shared.health.apply.beat();
        room
    }

    /// Waits while the store is being rebuilt. False if the daemon is stopping.
    fn wait_while_rebuilding(&self) -> bool {
        while self.upkeep.rebuild.is_running() && !self.shared.signals.is_stopping() {
            self.shared.signals.wait(LOOK_AGAIN);
        }
        !self.shared.signals.is_stopping()
    }

    /// Whether lookups do not show the batch yet (`batch_shows_after`, as with Adobe). Its rows are not applied before that.
    fn is_hidden(&self, batch: &Accepted) -> bool {
        let settings = self.shared.settings(&batch.id.client);
        let after = settings.map_or(0, |settings| settings.batch_shows_after_ms);
        hidden(batch.id.seq, after, self.shared.now())
    }
}
