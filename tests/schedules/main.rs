//! The races of docs/internals/design.md (publish, resolve, drop, swap onto a link; checkpoints, snapshots and fresh stores beside them
//! all), run under a schedule explorer: on threads whose every step shuttle decides.
//!
//! ```text
//! daemon.rs   the real committer, plan, lookups and steps of upkeep, without sockets, and what a power cut leaves of it
//! store.rs    its store, which a power cut takes back
//! lives.rs    what a lookup may show, and when
//! order.rs    scenarios of writes, batches and lookups
//! upkeep.rs   scenarios with checkpoints, snapshots, fresh stores and the sweeper beside them
//! ```
//!
//! Promises, for every schedule:
//! - Each lookup shows the visitor as the accepted writes leave it, one after the other in the order of their seqs, up to some
//!   write. It shows every write that was answered before the lookup began, and all that an earlier lookup of the same thread showed.
//! - Every row's outcome is that of its batch's place in the order, and the counts add up.
//! - At the end, and at a power cut before, three stores show the same, each with the journal after it: the store as its last
//!   checkpoint left it, a store made from each snapshot, and a store made from nothing.
//!
//! A failure prints the schedule; `shuttle::replay` takes it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![expect(clippy::panic, reason = "so should a daemon in a test")]

mod daemon;
mod lives;
mod order;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod upkeep;

use daemon::Daemon;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use support::seed::with_each_seed;

/// How many schedules of each kind every scenario is run under, half of them of each seed.
const RANDOM_SCHEDULES: usize = 2000;
const PCT_SCHEDULES: usize = 2000;
/// How often PCT takes the processor away from the thread that has it.
const PCT_DEPTH: usize = 4;
/// Room for the parser's and the index's buffers in a build without optimisation.
const STACK_BYTES: usize = 1 << 18;

/// Runs a scenario under many schedules.
fn explore(scenario: impl Fn(&Daemon) + Send + Sync + 'static) {
    explore_again(|_| (), scenario);
}

/// The same, with steps before it, in a daemon whose store is then lost and rebuilt for the scenario.
fn explore_again(
    before: impl Fn(&Daemon) + Send + Sync + 'static,
    scenario: impl Fn(&Daemon) + Send + Sync + 'static,
) {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let base = tempfile::Builder::new().prefix("profiled-schedules-").tempdir_in(base).unwrap();
    let scenario = Arc::new((before, scenario));
    let run = |kind: String, scheduler: Box<dyn Scheduler + Send>| {
        let (base, scenario, executions) = (base.path().join(kind), Arc::clone(&scenario), AtomicU64::new(0));
        let mut config = shuttle::Config::new();
        config.stack_size = STACK_BYTES;
        shuttle::Runner::new(scheduler, config).run(move || {
            let folder = base.join(executions.fetch_add(1, Ordering::Relaxed).to_string());
            let (before, scenario) = &*scenario;
            let daemon = Daemon::start(&folder);
            before(&daemon);
            let daemon = daemon.rebuilt();
            scenario(&daemon);
            daemon.stop_and_begin_again();
            std::fs::remove_dir_all(folder).unwrap();
        });
    };
    with_each_seed(|seed| {
        let random = RandomScheduler::new_from_seed(seed, RANDOM_SCHEDULES / 2);
        run(format!("random-{seed}"), Box::new(random));
        let pct = PctScheduler::new_from_seed(seed, PCT_DEPTH, PCT_SCHEDULES / 2);
        run(format!("pct-{seed}"), Box::new(pct));
    });
}
