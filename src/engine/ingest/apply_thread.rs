//! The folding thread: whose turn it is, folded on two writers at the pace that is set, counted, checkpointed, noted as
//! complete.

use crate::batch::apply::{Part, Plan, Step};
use crate::batch::outcome::{RowOutcome, write_outcomes};
use crate::batch::pending::{Accepted, Pending};
use crate::batch::queue::Turn;
use crate::batch::resolve::ResolveError;
use crate::engine::commit::Request;
use crate::engine::error::{EngineError, Fatal};
use crate::engine::ingest::state::Ingest;
use crate::engine::ingest::throttle::LOOK_AGAIN;
use crate::engine::read::lookup::hidden;
use crate::engine::shared::thread_point;
use crate::model::batch::Counts;
use crate::model::seq::Seq;
use crate::sync::{Mutex, Ordering, lock};
use crate::telemetry::metrics::HeldBack;
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Two writers: what sled gains from on two cores.
const WRITERS: usize = 2;
/// A batch is split by key range into parts of about so many rows. One writer takes them from the front, the other from the
/// back, until they meet: visitors that cost less, as unknown ones do, lie together.
const PART_ROWS: usize = 4096;
/// A batch that was refused this often shows as stuck; it is tried again all the same.
const REFUSALS_UNTIL_STUCK: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often it is looked whether a batch that lookups do not show yet is due.
const HELD_LOOK: Duration = Duration::from_millis(20);

/// Why a batch is not folded.
enum Unfolded {
    /// The daemon is stopping.
    Stopping,
    /// The store is being made again: the batch begins once more on that one.
    Remaking,
    /// The store is past a row and nothing tells what became of it, and going on would make something up.
    Untrue(ResolveError),
    /// Its upload is not what was accepted, this and why, and what it reads now must get nowhere.
    Damaged(String, ResolveError),
    /// It is held by now.
    Held,
    /// It must first resolve rows of a visitor whom a later batch names that is held.
    Behind(String),
    /// The store, the spool or the journal refused; it may be tried again.
    Refused(String),
}

impl From<ResolveError> for Unfolded {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::OutcomeLost { .. } => Self::Untrue(error),
            ResolveError::Held { .. } => Self::Behind(error.to_string()),
            error => match error.lost_upload() {
                Some(in_short) => Self::Damaged(in_short, error),
                None => Self::Refused(error.to_string()),
            },
        }
    }
}

impl From<EngineError> for Unfolded {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Stopping => Self::Stopping,
            EngineError::Held { .. } => Self::Behind(error.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }
}

/// Folds batches until the queue is closed.
pub(in crate::engine) fn run(ingest: &Arc<Ingest>) {
    std::thread::scope(|scope| fold_all(ingest, &SecondWriter::start(scope, ingest)));
}

fn fold_all(ingest: &Arc<Ingest>, second: &SecondWriter) {
    let mut refusals = 0;
    // Batches that wait for one behind them that is held, and until when.
    let mut waiting: HashMap<Seq, Instant> = HashMap::new();
    loop {
        thread_point("fold-thread");
        ingest.shared.health.apply.idle();
        waiting.retain(|_, until| *until > Instant::now());
        let waits = |batch: &Accepted| ingest.is_hidden(batch) || waiting.contains_key(&batch.id.seq);
        let pending = match ingest.shared.batches.next_not_held(waits) {
            Turn::Of(pending) => pending,
            Turn::Held => {
                ingest.shared.signals.wait(HELD_LOOK);
                continue;
            }
            Turn::Closed => return,
        };
        let seq = pending.accepted.id.seq;
        ingest.applying_batch.store(seq.get(), Ordering::SeqCst);
        let folded = fold_batch(ingest, second, &pending);
        ingest.applying_batch.store(0, Ordering::SeqCst);
        let why = match folded {
            Ok(()) => {
                refusals = 0;
                continue;
            }
            Err(Unfolded::Stopping) => return,
            Err(Unfolded::Remaking | Unfolded::Held) => continue,
            Err(Unfolded::Damaged(in_short, error)) => {
                pending.hold(&in_short, &error);
                continue;
            }
            Err(Unfolded::Behind(why)) => {
                tracing::debug!(batch = %pending.accepted.id, %why, "a batch waits for a later one");
                waiting.insert(seq, Instant::now() + RETRY_AFTER);
                continue;
            }
            Err(Unfolded::Untrue(error)) => {
                ingest.shared.health.fail(&Fatal::new(error));
                return;
            }
            Err(Unfolded::Refused(why)) => why,
        };
        refusals += 1;
        tracing::error!(batch = %pending.accepted.id, refusals, %why, "a batch could not be folded; it will be tried again");
        pending.progress.stuck(refusals >= REFUSALS_UNTIL_STUCK);
        ingest.shared.signals.wait(RETRY_AFTER);
    }
}

/// What became of a writer's share of a batch.
type Share = Result<(Vec<RowOutcome>, Counts), Unfolded>;

/// A batch that is being folded.
struct Folding {
    plan: Plan,
    parts: usize,
    /// The parts that no writer has taken.
    left: Mutex<Range<usize>>,
}

impl Folding {
    fn new(plan: Plan) -> Self {
        let parts = plan.rows().div_ceil(PART_ROWS).max(WRITERS);
        Self { plan, parts, left: Mutex::new(0..parts) }
    }

    fn take_part(&self, writer: usize) -> Option<Part<'_>> {
        let mut left = lock(&self.left);
        let taken = if writer == 0 { left.next() } else { left.next_back() };
        drop(left);
        Some(self.plan.part(taken?, self.parts))
    }

    /// Nobody takes another part: the batch begins once more.
    fn give_up(&self) {
        *lock(&self.left) = 0..0;
    }
}

/// The other writer. It stays for good: of what a thread allocates, and the store keeps, the room is slow to be used again
/// once the thread is gone.
struct SecondWriter {
    begun: Sender<Arc<Folding>>,
    folded: Receiver<Share>,
}

impl SecondWriter {
    fn start<'s>(scope: &'s Scope<'s, '_>, ingest: &'s Arc<Ingest>) -> Self {
        let ((begun, next), (done, folded)) = (channel::<Arc<Folding>>(), channel());
        let fold_shares = move || {
            for folding in next {
                thread_point("fold-2-thread");
                let folded = fold_share(ingest, &folding, 1);
                // Nobody else holds it any more when the next batch begins: two would be twice the memory.
                drop(folding);
                if done.send(folded).is_err() {
                    return;
                }
            }
        };
        let run = move || {
            if catch_unwind(AssertUnwindSafe(fold_shares)).is_err() {
                ingest.shared.health.fail(&Fatal::new("the second writer's thread panicked"));
            }
        };
        // Without it nothing is folded, which is told of whoever asks it to.
        if let Err(error) = std::thread::Builder::new().name("fold-2".into()).spawn_scoped(scope, run) {
            ingest
                .shared
                .health
                .fail(&Fatal::new(format!("there is no thread for the second writer: {error}")));
        }
        Self { begun, folded }
    }

    /// Has it fold its share while `own` is done here.
    fn fold_beside(&self, folding: &Arc<Folding>, own: impl FnOnce() -> Share) -> [Share; WRITERS] {
        let asked = self.begun.send(Arc::clone(folding));
        let own = own();
        let gone = || Unfolded::Refused("the second writer is gone".into());
        let theirs = match asked {
            Ok(()) => self.folded.recv().unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        [own, theirs]
    }
}

/// Folds a writer's share of a batch.
fn fold_share(ingest: &Arc<Ingest>, folding: &Folding, writer: usize) -> Share {
    let share = || {
        let (mut outcomes, mut counts, mut took) = (vec![], Counts::default(), Duration::ZERO);
        while let Some(part) = folding.take_part(writer) {
            let (more, part_counts) = fold_part(ingest, folding.plan.pending(), part, &mut took)?.finish();
            outcomes.extend(more);
            counts = counts.plus(&part_counts);
        }
        Ok((outcomes, counts))
    };
    let share = catch_unwind(AssertUnwindSafe(share));
    let share = share.unwrap_or_else(|_| Err(Unfolded::Refused("a writer panicked".into())));
    share.inspect_err(|_| folding.give_up())
}

fn fold_batch(ingest: &Arc<Ingest>, second: &SecondWriter, pending: &Arc<Pending>) -> Result<(), Unfolded> {
    if !ingest.shared.wait_for_disk_space() || !ingest.wait_while_rebuilding() {
        return Err(Unfolded::Stopping);
    }
    let _folding = lock(&ingest.upkeep.applying);
    ingest.shared.health.apply.beat();
    let began = Instant::now();
    let plan = Plan::make(pending, &*ingest.shared.store, ingest.shared.config().held_bytes_max())?;
    let planned = began.elapsed();
    let (outcomes, mut counts) = plan.decided();
    let mut outcomes = outcomes.to_vec();
    pending.progress.begin(ingest.shared.now());
    pending.progress.add(&counts);
    let folding = Arc::new(Folding::new(plan));
    for share in second.fold_beside(&folding, || fold_share(ingest, &folding, 0)) {
        let (more, share_counts) = share?;
        outcomes.extend(more);
        counts = counts.plus(&share_counts);
    }
    if counts.total() != pending.accepted.rows {
        let error = format!("{} outcomes for {} rows", counts.total(), pending.accepted.rows);
        return Err(Unfolded::Refused(error));
    }
    let folded = began.elapsed();
    let path = ingest.shared.spool.outcomes_path(pending.accepted.spool);
    // What became of the rows of a batch that was complete before is on record already.
    if !pending.is_on_record() {
        ingest
            .shared
            .spool
            .recount_after(&path, || write_outcomes(&path, &mut outcomes))
            .map_err(|error| Unfolded::Refused(format!("the outcomes could not be written: {error}")))?;
    }
    ingest.shared.health.apply.beat();
    let reach = ingest.upkeep.make_store_durable()?;
    if pending.held().is_some() {
        return Err(Unfolded::Held);
    }
    pending.progress.stuck(false);
    let id = &pending.accepted.id;
    let again = ingest.shared.batches.is_again(id.seq);
    let before = ingest.shared.batches.get(id).filter(|_| again).and_then(|known| known.progress.completed());
    let at = before.unwrap_or_else(|| ingest.shared.now());
    let complete = Request::Complete(id.clone(), counts, at, reach);
    ingest.commit.ask_blocking(complete)?;
    if !again {
        ingest.shared.metrics.batch_complete(&pending.accepted.id.client, &counts);
    }
    ingest.shared.spool.remove_index(pending.accepted.spool);
    tracing::info!(
        batch = %pending.accepted.id,
        rows = counts.total(),
        updated = counts.updated,
        created = counts.created,
        not_found = counts.not_found,
        ignored = counts.ignored,
        failed = counts.failed,
        planned_ms = planned.as_millis(),
        folded_ms = folded.as_millis(),
        ms = began.elapsed().as_millis(),
        again,
        "a batch is complete"
    );
    Ok(())
}

/// Folds a part, of which the step before `took` so long.
fn fold_part<'p>(
    ingest: &Arc<Ingest>,
    pending: &Pending,
    mut part: Part<'p>,
    took: &mut Duration,
) -> Result<Part<'p>, Unfolded> {
    while !part.is_done() {
        if ingest.upkeep.rebuild.is_running() {
            return Err(Unfolded::Remaking);
        }
        if pending.held().is_some() {
            return Err(Unfolded::Held);
        }
        if !ingest.wait_for_turn(*took) {
            return Err(Unfolded::Stopping);
        }
        let (before, began) = (part.counts(), Instant::now());
        let step = part.step(&*ingest.shared.store)?;
        *took = began.elapsed();
        match step {
            Step::More => {
                let counts = part.counts().since(&before);
                pending.progress.add(&counts);
                ingest.throttle.applied(counts.total(), Instant::now());
                ingest.shared.metrics.folded(counts.total());
            }
            Step::Resolve(keys) => {
                let request = Request::Resolve(pending.accepted.id.client.clone(), keys);
                ingest.commit.ask_blocking(request)?;
            }
            Step::Done => {}
        }
    }
    Ok(part)
}

impl Ingest {
    /// Waits until the next chunk of rows may be folded (R10): there is room on the disk, the rate allows it, and no site
    /// call waits, or folding has given way for long enough, which the last step `took`. False if the daemon is stopping.
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
            self.shared.metrics.held_back(HeldBack::Rate, began.elapsed());
            self.shared.health.apply.beat();
            if self.shared.signals.is_stopping() {
                return false;
            }
        }
        let waited = self.throttle.give_way(took, self.shared.batches.pending_batches());
        self.shared.metrics.held_back(HeldBack::SiteCalls, waited);
        self.shared.health.apply.idle();
        let room = self.shared.wait_for_disk_space();
        self.shared.health.apply.beat();
        room
    }

    /// Waits while the store is being made again; false if the daemon is stopping.
    fn wait_while_rebuilding(&self) -> bool {
        while self.upkeep.rebuild.is_running() && !self.shared.signals.is_stopping() {
            self.shared.signals.wait(LOOK_AGAIN);
        }
        !self.shared.signals.is_stopping()
    }

    /// Whether lookups do not show a batch yet, and it is not to be folded in, because it is to look like one of Adobe's.
    fn is_hidden(&self, batch: &Accepted) -> bool {
        let settings = self.shared.settings(&batch.id.client);
        let after = settings.map_or(0, |settings| settings.batch_shows_after_ms);
        hidden(batch.id.seq, after, self.shared.now())
    }
}
