//! How the engine is: whether it failed, whether its threads still move, and a few gauges.
//!
//! Promises: to ask costs nothing and waits for nobody. The first failure stays, and nothing is acknowledged after it.

use crate::engine::error::Fatal;
use crate::engine::heartbeat::Heartbeat;
use crate::model::seq::Millis;
use crate::sync::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// A commit group that takes longer than this counts as stuck.
const COMMIT_STUCK: Duration = Duration::from_secs(30);
/// Applying rows counts as stuck if it makes no step for so long. Its longest step makes a large store durable.
const APPLY_STUCK: Duration = Duration::from_secs(300);

/// The state of the process, for everybody who asks whether it still works.
#[derive(Debug)]
pub(super) struct Health {
    /// Why the process must end, once it must. A channel, because the main task waits for it.
    failure: watch::Sender<Option<String>>,
    /// Of the commit thread: without it nothing is written.
    pub(super) commit: Heartbeat,
    /// Of the thread that applies rows: without it no batch is completed.
    pub(super) apply: Heartbeat,
    /// What is measured now and then.
    pub(super) gauges: Gauges,
}

impl Health {
    /// A healthy process, as of now: the clock's time, and the time that has passed since the process began.
    pub(super) fn at_start(now: Millis, passed: Duration) -> Self {
        Self {
            failure: watch::Sender::new(None),
            commit: Heartbeat::default(),
            apply: Heartbeat::default(),
            gauges: Gauges::at_start(now, passed),
        }
    }

    /// Notes that the process must end. Nothing more can be acknowledged.
    pub(super) fn fail(&self, why: &Fatal) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| why.to_string());
            first
        });
        tracing::error!(%why, "the daemon must stop");
    }

    /// Why the process must end, if it must.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Whether the process must end.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Completes when the process must end, with the reason.
    pub(super) async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Why only a new start helps, if that is so: the process failed, or a thread is stuck.
    pub(super) fn ailment(&self) -> Option<String> {
        let stuck = |what: &str, heartbeat: &Heartbeat, most| {
            let time = heartbeat.stuck_for(most)?;
            Some(format!("{what} has been stuck for {} s", time.as_secs()))
        };
        self.failure()
            .or_else(|| stuck("writing the journal", &self.commit, COMMIT_STUCK))
            .or_else(|| stuck("applying rows of batches", &self.apply, APPLY_STUCK))
    }
}

/// What is measured now and then, because to measure it for each question would take too long.
#[derive(Debug)]
pub(super) struct Gauges {
    /// The bytes of the store's files.
    pub(super) store_bytes: AtomicU64,
    /// The profiles that live, as the sweeper counted them in its last whole pass; before the first, as far as it is.
    pub(super) live_profiles: AtomicU64,
    /// When that pass ended, in milliseconds of the steady time. The start counts as a pass.
    pub(super) live_profiles_at: AtomicU64,
    /// The bytes that are free on the disk.
    pub(super) disk_free_bytes: AtomicU64,
    /// When the last checkpoint was taken, in milliseconds. The start counts as one.
    pub(super) checkpoint_at: AtomicU64,
    /// When the last snapshot was taken; the start, if there is none.
    pub(super) snapshot_at: AtomicU64,
    /// The offset of the order of several nodes that the newest snapshot has everything before; 0 if there is none.
    pub(super) snapshot_order: AtomicU64,
}

impl Gauges {
    fn at_start(now: Millis, passed: Duration) -> Self {
        Self {
            store_bytes: AtomicU64::new(0),
            live_profiles: AtomicU64::new(0),
            live_profiles_at: AtomicU64::new(u64::try_from(passed.as_millis()).unwrap_or_default()),
            disk_free_bytes: AtomicU64::new(0),
            checkpoint_at: AtomicU64::new(now.0),
            snapshot_at: AtomicU64::new(now.0),
            snapshot_order: AtomicU64::new(0),
        }
    }

    /// How long before `now` the time of one of these gauges was.
    pub(super) fn age(at: &AtomicU64, now: Millis) -> Duration {
        Duration::from_millis(now.0.saturating_sub(at.load(Ordering::Relaxed)))
    }
}
