//! The maintenance tasks of the daemon, action by action: anything may come between two actions.

use super::{Harness, PAGE_VALUES, Wrong};
use crate::order::coverage::{Met, met};
use crate::order::ops::Stop;
use crate::order::stores::Store;
use profiled::engine::commit::{Answer, Request};
use profiled::engine::driver::checkpoint::CheckpointTask;
use profiled::engine::driver::fresh::FreshTask;
use profiled::engine::driver::retire::RetireTask;
use profiled::engine::driver::snapshot::SnapshotTask;
use profiled::engine::driver::task::{Action, Event, Machine, OnStore};
use profiled::engine::open::recovery::write_checkpoint;
use profiled::engine::upkeep::erase::{Erased, overwrite_rows};
use profiled::engine::upkeep::steps::{InHand, On, batches_needless, journal_needed};
use profiled::engine::upkeep::sweep::{Horizon, step as sweep};
use profiled::journal::entry::Checkpoint;
use profiled::model::seq::{Clock, Seq};

/// A task that is under way.
pub(super) struct UnderWay {
    task: Box<dyn Machine>,
    /// What it wants next.
    wants: Action,
    hand: InHand,
}

impl UnderWay {
    fn begin(mut task: impl Machine + 'static) -> Self {
        let wants = task.step(Event::Done);
        Self { task: Box::new(task), wants, hand: InHand::default() }
    }

    fn has_ended(&self) -> bool {
        matches!(self.wants, Action::End { .. })
    }
}

/// What is done for the disk, one such task at a time.
pub(super) struct Upkeep {
    kind: Kind,
    task: UnderWay,
    between: Between,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Snapshot,
    Fresh,
}

/// What came between the actions of a task.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Between {
    pub(super) write: bool,
    pub(super) bind: bool,
    pub(super) apply: bool,
}

fn wrong(error: impl std::fmt::Display) -> Wrong {
    format!("upkeep: {error}")
}

impl Harness {
    /// Something came between the actions of a task.
    pub(super) fn between(&mut self, note: impl FnOnce(&mut Between)) {
        let filling = self.core().next.is_some();
        if let Some(upkeep) = self.upkeep.as_mut().filter(|upkeep| upkeep.kind == Kind::Snapshot || filling) {
            note(&mut upkeep.between);
        }
    }

    /// Has a task take a step.
    fn take_step(&mut self, under_way: &mut UnderWay) -> Result<(), Wrong> {
        let event = self.carry_out_of(under_way.wants.clone(), &mut under_way.hand)?;
        under_way.wants = under_way.task.step(event);
        match under_way.wants {
            Action::End { done: false } => Err("a task has failed".into()),
            _ => Ok(()),
        }
    }

    /// Carries out what a task wants.
    fn carry_out_of(&mut self, action: Action, hand: &mut InHand) -> Result<Event, Wrong> {
        match action {
            Action::LockStore => {
                // A checkpoint that has it locked is waited for.
                if self.store_locked {
                    self.checkpoint()?;
                }
                self.store_locked = true;
            }
            Action::UnlockStore => self.store_locked = false,
            Action::KeepTombstones => self.tombstones_stay = true,
            Action::Mark => return Ok(Event::Marked(self.marks()?)),
            Action::OnStore(what) => return self.on_store(what, hand),
            Action::Note(mark) => self.note(self.generation, &mark)?,
            Action::NoteFresh(mark) => self.note(self.last_generation, &mark)?,
            Action::Cover(last) => self.checkpointed_seq = last,
            Action::BeginSnapshot(mark) => hand.begin_snapshot(&self.snapshots, &mark).map_err(wrong)?,
            // What waits here goes on by itself after a while.
            Action::WaitForPending | Action::NoteErasing => {}
            Action::Overwrite => self.overwrite(&hand.erased)?,
            Action::BeginFresh => self.begin_fresh()?,
            Action::Adopt => self.generation = self.last_generation,
            Action::RemoveFormer => hand.former = None,
            Action::VerifySnapshots => return Ok(Event::Snapshots(self.kept.len())),
            Action::RemoveSnapshots(kept) => {
                let mut older = self.kept.split_off(kept).into_iter();
                older.try_for_each(|(number, _)| self.snapshots.remove(number)).map_err(wrong)?;
            }
            Action::TakeCheckpoint => self.checkpoint()?,
            Action::ReadCheckpoint => {
                let found = Store::checkpoint(&self.store_folder());
                return Ok(found.map_or(Event::Done, Event::Marked));
            }
            Action::RetireJournal(mark) => self.retire_journal(&mark)?,
            Action::RetireBatches(mark) => self.retire_batches(&mark),
            other => return Err(format!("nobody can carry out {other:?}")),
        }
        Ok(Event::Done)
    }

    fn on_store(&mut self, what: OnStore, hand: &mut InHand) -> Result<Event, Wrong> {
        let (core, lifetime_ms) = (self.core.as_mut().unwrap(), self.settings.lifetime_ms);
        let horizon = Horizon {
            now: self.clock.now(),
            checkpoint: self.checkpointed_seq,
            batches: &core.batches,
            lifetime_ms: &|_| Some(lifetime_ms),
        };
        let (go_on, left_out) = (&|| Ok(()), &|_: &_| met(Met::TombstoneLeftOut));
        let on = On { store: &core.swap, horizon, page_values: PAGE_VALUES, go_on, left_out };
        let swaps = what == OnStore::SwapIn;
        let event = hand.carry_out(what, &on).map_err(wrong)?;
        if swaps {
            core.store = core.next.take().ok_or("no next store")?;
        }
        Ok(event)
    }

    fn note(&self, generation: u64, mark: &Checkpoint) -> Result<(), Wrong> {
        write_checkpoint(&self.generation_folder(generation).join("checkpoint"), mark).map_err(wrong)
    }

    fn marks(&mut self) -> Result<Checkpoint, Wrong> {
        match self.ask(Request::Mark)? {
            Answer::Marked(mark) => {
                self.core().batches.save().map_err(wrong)?;
                Ok(mark)
            }
            other => Err(format!("a mark was answered with {other:?}")),
        }
    }

    // The checkpoint thread's part.

    /// Takes the first steps of a checkpoint, up to where it knows what it will cover.
    pub(super) fn mark(&mut self) -> Result<(), Wrong> {
        // While a fresh store is swapped in no checkpoint begins.
        if self.store_locked {
            return Ok(());
        }
        let mut task = UnderWay::begin(CheckpointTask::default());
        while task.wants != Action::OnStore(OnStore::CheckDamage) {
            self.take_step(&mut task)?;
        }
        self.checkpoint = Some(task);
        Ok(())
    }

    /// Takes a checkpoint, or the rest of it.
    pub(super) fn checkpoint(&mut self) -> Result<(), Wrong> {
        self.mark()?;
        let Some(mut task) = self.checkpoint.take() else { return Ok(()) };
        while !task.has_ended() {
            self.take_step(&mut task)?;
        }
        self.store_locked = false;
        met(Met::CheckpointTaken);
        Ok(())
    }

    // The sweeper's.

    pub(super) fn sweep(&mut self) -> Result<(), Wrong> {
        self.checkpoint()?;
        let mut after = None;
        loop {
            let core = self.core.as_ref().unwrap();
            let lifetime_ms = self.settings.lifetime_ms;
            let horizon = Horizon {
                now: self.clock.now(),
                checkpoint: if self.tombstones_stay { Seq::ZERO } else { self.checkpointed_seq },
                batches: &core.batches,
                lifetime_ms: &|_| Some(lifetime_ms),
            };
            let swept = sweep(&*core.shared(), &horizon, after.as_ref(), 100).map_err(wrong)?;
            if swept.expired > 0 {
                self.swept = true;
                met(if core.batches.pending_batches() > 0 { Met::SweptUnderPending } else { Met::Swept });
            }
            self.waiting.extend(swept.requests);
            after = swept.next;
            if after.is_some() {
                continue;
            }
            // Else what is to be swept waits for the next calls, which may write to it first.
            return if self.groups.is_multiple_of(3) { Ok(()) } else { self.commit(&[]) };
        }
    }

    // The housekeeping thread's.

    /// Begins a snapshot, if no other task is under way, and takes some pages of it.
    pub(super) fn snapshot(
        &mut self,
        steps: usize,
        rotate: bool,
        retire: bool,
        retention_over: bool,
    ) -> Result<(), Wrong> {
        if self.upkeep.is_none() {
            if rotate {
                self.ask(Request::Rotate)?;
            }
            let mut task = UnderWay::begin(SnapshotTask::default());
            while task.wants != Action::OnStore(OnStore::SnapshotPage) {
                self.take_step(&mut task)?;
            }
            self.upkeep = Some(Upkeep { kind: Kind::Snapshot, task, between: Between::default() });
        }
        for _ in 0..steps {
            let Some(mut upkeep) = self.upkeep.take_if(|upkeep| upkeep.kind == Kind::Snapshot) else {
                return Ok(());
            };
            self.take_step(&mut upkeep.task)?;
            if upkeep.task.wants == Action::OnStore(OnStore::SnapshotPage) {
                self.upkeep = Some(upkeep);
                continue;
            }
            while !upkeep.task.has_ended() {
                self.take_step(&mut upkeep.task)?;
            }
            self.tombstones_stay = false;
            met(Met::SnapshotTaken);
            for (came, what) in [
                (upkeep.between.write, Met::WriteBetweenPages),
                (upkeep.between.bind, Met::BindBetweenPages),
                (upkeep.between.apply, Met::ApplyBetweenPages),
            ] {
                if came {
                    met(what);
                }
            }
            let taken = upkeep.task.hand.taken.ok_or("no snapshot")?;
            let newest = self.snapshots.list().map_err(wrong)?[0].1;
            self.kept.insert(0, (newest, taken.checkpoint));
            return if retire { self.retire(retention_over) } else { Ok(()) };
        }
        Ok(())
    }

    /// Removes what two snapshots and the checkpoint make needless.
    fn retire(&mut self, retention_over: bool) -> Result<(), Wrong> {
        self.retention_ms = if retention_over { 0 } else { u64::MAX / 2 };
        let mut task = UnderWay::begin(RetireTask::default());
        while !task.has_ended() {
            self.take_step(&mut task)?;
        }
        Ok(())
    }

    fn retire_journal(&mut self, mark: &Checkpoint) -> Result<(), Wrong> {
        let kept = self.kept.iter().map(|(_, kept)| kept);
        let needed = journal_needed(kept.chain([mark])).ok_or("nothing")?;
        let journal = self.folder.path().join("journal");
        let segments = || std::fs::read_dir(&journal).unwrap().count();
        let before = segments();
        self.ask(Request::Retire(needed))?;
        if segments() < before {
            self.retired = true;
            met(Met::SegmentsRetired);
        }
        Ok(())
    }

    fn retire_batches(&mut self, mark: &Checkpoint) {
        let snapshots = self.kept.iter().map(|(_, kept)| kept).chain([mark]);
        let core = self.core.as_ref().unwrap();
        for known in batches_needless(&core.batches, snapshots, self.clock.now(), self.retention_ms) {
            met(Met::BatchForgotten);
            core.batches.forget(std::slice::from_ref(&known.accepted.id));
            core.spool.remove(known.accepted.spool);
            let seq = known.accepted.id.seq.get();
            self.sent.iter_mut().filter(|sent| sent.seq == seq).for_each(|sent| sent.forgotten = true);
        }
    }

    /// Begins a fresh store, if no other task is under way, and takes some steps of it.
    pub(super) fn fresh(&mut self, steps: usize, stop: Stop) -> Result<(), Wrong> {
        if self.upkeep.is_none() {
            let (task, between) = (UnderWay::begin(FreshTask::default()), Between::default());
            self.upkeep = Some(Upkeep { kind: Kind::Fresh, task, between });
        }
        for _ in 0..steps {
            let Some(mut upkeep) = self.upkeep.take_if(|upkeep| upkeep.kind == Kind::Fresh) else {
                return Ok(());
            };
            self.take_step(&mut upkeep.task)?;
            if upkeep.task.has_ended() {
                self.store_locked = false;
                met(Met::Swapped);
                for (came, what) in [
                    (upkeep.between.write, Met::WriteDuringSwap),
                    (upkeep.between.bind, Met::BindDuringSwap),
                    (upkeep.between.apply, Met::ApplyDuringSwap),
                ] {
                    if came {
                        met(what);
                    }
                }
                return Ok(());
            }
            let there = match stop {
                Stop::Nowhere => false,
                Stop::BeforeAdopt => upkeep.task.wants == Action::Adopt,
                Stop::BehindAdopt => upkeep.task.wants == Action::OnStore(OnStore::SwapIn),
            };
            self.upkeep = Some(upkeep);
            if there {
                return Ok(());
            }
        }
        Ok(())
    }

    fn overwrite(&mut self, erased: &Erased) -> Result<(), Wrong> {
        let core = self.core.as_ref().unwrap();
        let mut held = vec![];
        let Ok(()) = core.batches.each_held(|known| {
            held.push(known);
            Ok::<(), std::convert::Infallible>(())
        });
        for known in held {
            let seq = known.accepted.id.seq;
            let overwritten = overwrite_rows(&core.spool, &known.accepted, erased);
            if overwritten.map_err(wrong)? > 0 {
                met(Met::RowsOverwritten);
                let sent = self.sent.iter_mut().find(|sent| sent.seq == seq.get());
                sent.ok_or("an unknown batch")?.overwritten = true;
            }
        }
        Ok(())
    }

    fn begin_fresh(&mut self) -> Result<(), Wrong> {
        self.last_generation += 1;
        let folder = self.generation_folder(self.last_generation);
        std::fs::create_dir(&folder).map_err(wrong)?;
        let core = self.core.as_mut().unwrap();
        let next = Store::new(core.store.which(), &folder);
        core.swap.begin(next.shared());
        core.next = Some(next);
        Ok(())
    }

    /// The end of the process: what was under way is gone.
    pub(super) fn crash_tasks(&mut self) {
        self.checkpoint = None;
        (self.store_locked, self.tombstones_stay) = (false, false);
        match self.upkeep.take() {
            Some(Upkeep { kind: Kind::Fresh, task, .. }) => met(match task.wants {
                Action::OnStore(OnStore::SwapIn) => Met::CrashAfterAdopt,
                Action::Adopt => Met::CrashBeforeAdopt,
                _ => Met::CrashWhileCopying,
            }),
            // Dropped, it leaves nothing.
            Some(Upkeep { kind: Kind::Snapshot, .. }) => met(Met::CrashUnderSnapshot),
            None => {}
        }
    }
}
