//! What the engine tells those who watch it: whether it serves, what an operator should know, and its gauges.

use crate::engine::health::Gauges;
use crate::engine::node::OrderStatus;
use crate::engine::start::Running;
use crate::engine::types::Readiness;
use crate::order::Offset;
use crate::sync::Ordering;
use crate::telemetry;
use crate::telemetry::metrics::{BackupVitals, OrderVitals, Vitals};
use std::num::NonZeroU32;
use std::time::Duration;

impl Running {
    /// Whether the daemon serves.
    pub(super) fn readiness(&self) -> Readiness {
        if let Some(why) = self.shared.health.ailment() {
            return Readiness::NotReady(why);
        }
        if self.shared.signals.is_stopping() {
            return Readiness::NotReady("the daemon is stopping".into());
        }
        let after = self.shared.config().cluster.not_ready_after;
        if let Some(why) = self.order_status().and_then(|order| order.not_ready(after)) {
            return Readiness::NotReady(why);
        }
        if let Some(damage) = self.shared.store.damage() {
            return Readiness::NotReady(self.upkeep.rebuild.describe(&damage));
        }
        Readiness::Ready
    }

    /// How far this node is in the order of several; none on a single daemon.
    pub(super) fn order_status(&self) -> Option<OrderStatus> {
        let node = self.commit.node()?;
        let snapshot = self.shared.health.gauges.snapshot_order.load(Ordering::Relaxed);
        Some(OrderStatus::of(node, Offset(snapshot), self.shared.now()))
    }

    /// What an operator should know of a daemon that serves all the same.
    pub(super) fn remarks(&self) -> Vec<String> {
        let (shared, hold, mut remarks) = (&self.shared, &self.upkeep.hold, vec![]);
        // The clock notices a leap when somebody asks it for the time.
        shared.now();
        if let Some(ahead) = shared.clock.ahead_by() {
            remarks.push(format!(
                "the machine's clock has leapt {} s ahead and is not believed: set it right; if it is right now, accept it by \
                 `profiled reload`, a SIGHUP or a restart",
                ahead.as_secs()
            ));
        }
        if let Some(left) = hold.left(shared.clock.passed()) {
            remarks.push(format!(
                "the clock is long past the last write: {} visitors who expired meanwhile are kept, and uploads past their \
                 retention, for {} more minutes; if the clock is wrong, stop the daemon and set it before then",
                hold.kept(),
                left.as_secs().div_ceil(60)
            ));
        }
        if let Some(failure) = self.backups().and_then(|backups| backups.failure) {
            remarks.push(format!("the last scheduled backup failed, and is tried again: {failure}"));
        }
        match shared.batches.held() {
            0 => {}
            held => remarks.push(format!(
                "{held} batches are stuck because their uploads are damaged, and every visitor whom they may name waits: send \
                 the files again (`profiled batch resend`) or give the batches up (`profiled batch abandon`)"
            )),
        }
        remarks
    }

    /// The backups that the daemon makes by itself, if the settings ask for them.
    fn backups(&self) -> Option<BackupVitals> {
        let config = self.shared.config();
        if config.backups.folder.is_none() && config.backups.url.is_none() {
            return None;
        }
        let known = self.upkeep.backups.known();
        Some(BackupVitals { every: config.backups.every, last: known.last, failure: known.failure })
    }

    /// The gauges, for the metrics and the inspector.
    pub(super) fn vitals(&self) -> Vitals {
        let (shared, gauges, now) = (&self.shared, &self.shared.health.gauges, self.shared.now());
        let (batches_pending, rows_pending) = shared.batches.backlog();
        let counted_at = Duration::from_millis(gauges.live_profiles_at.load(Ordering::Relaxed));
        Vitals {
            ready: self.readiness() == Readiness::Ready,
            batches_pending,
            batches_stuck: shared.batches.held(),
            rows_pending,
            oldest_pending_age: shared
                .batches
                .oldest_pending()
                .map(|seq| Duration::from_millis(now.0.saturating_sub(seq.millis().0))),
            writes_waiting: self.commit.waiting(),
            rows_per_second_max: shared.config().ingest.rows_per_second_at(now).map(NonZeroU32::get),
            live_profiles: gauges.live_profiles.load(Ordering::Relaxed),
            live_profiles_age: shared.clock.passed().saturating_sub(counted_at),
            expired_profiles_kept: self.upkeep.hold.kept(),
            clock_ahead: shared.clock.ahead_by().unwrap_or_default(),
            log_lines_lost: telemetry::lines_lost(),
            store_bytes: gauges.store_bytes.load(Ordering::Relaxed),
            spool_bytes: shared.spool.bytes(),
            disk_free_bytes: gauges.disk_free_bytes.load(Ordering::Relaxed),
            store_rebuilding: self.upkeep.rebuild.is_running(),
            store_rebuilds: self.upkeep.rebuild.done(),
            checkpoint_age: Gauges::age(&gauges.checkpoint_at, now),
            snapshot_age: Gauges::age(&gauges.snapshot_at, now),
            backups: self.backups(),
            certificate_expires: None,
            process: None,
            order: self.order_status().map(|order| OrderVitals {
                offset: order.applied.0,
                behind_records: order.behind_records(),
                behind: order.behind,
                duplicates: order.duplicates,
                ..OrderVitals::default()
            }),
        }
    }
}
