//! What the system says of this process: the metrics `process_…`, under the names that Prometheus' own clients give them.

use crate::model::seq::Millis;
use procfs::process::{LimitValue, Process};
use procfs::{ProcResult, page_size, ticks_per_second};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

/// When the process began, in seconds since the epoch. Computed once, so that it stays the same when somebody sets the clock.
static START: OnceLock<f64> = OnceLock::new();

/// What the process takes of the machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessVitals {
    /// Seconds that all its threads have computed.
    pub cpu_seconds: f64,
    /// Its memory that is in RAM.
    pub resident_bytes: u64,
    /// Its address space.
    pub virtual_bytes: u64,
    /// Its open files and connections.
    pub open_fds: u64,
    /// How many it may have; none: no limit.
    pub fds_max: Option<u64>,
    /// When it began, in seconds since the epoch.
    pub start_seconds: f64,
}

impl ProcessVitals {
    /// Asks the system. Reads the process' own files in `/proc`, so not for async threads, and no others: the systemd unit hides them.
    pub fn read(now: Millis) -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
        let began = || {
            let up = clock_gettime(ClockId::Boottime);
            let ago = up.tv_sec as f64 + up.tv_nsec as f64 / 1e9 - seconds(stat.starttime);
            now.0 as f64 / 1e3 - ago
        };
        Ok(Self {
            cpu_seconds: seconds(stat.utime + stat.stime),
            resident_bytes: stat.rss * page_size(),
            virtual_bytes: stat.vsize,
            open_fds: process.fd_count()? as u64,
            fds_max: match process.limits()?.max_open_files.soft_limit {
                LimitValue::Value(most) => Some(most),
                LimitValue::Unlimited => None,
            },
            start_seconds: *START.get_or_init(began),
        })
    }

    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("process");
        let cpu = Counter::<f64, AtomicU64>::default();
        cpu.inc_by(self.cpu_seconds);
        registry.register("cpu_seconds", "Seconds that all threads of the process have computed", cpu);
        let mut whole = |name: &str, help: &str, value: u64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        };
        whole("resident_memory_bytes", "Memory of the process that is in RAM, in bytes", self.resident_bytes);
        whole("virtual_memory_bytes", "Address space of the process, in bytes", self.virtual_bytes);
        whole("open_fds", "Open files and connections", self.open_fds);
        whole(
            "max_fds",
            "How many files and connections the process may have open",
            self.fds_max.unwrap_or(u64::MAX),
        );
        let start = Gauge::<f64, AtomicU64>::default();
        start.set(self.start_seconds);
        let help = "When the process began, in seconds since the epoch";
        registry.register("start_time_seconds", help, start);
        registry
    }
}
