//! The resources that callers share, each with its limit and its messages.

use crate::telemetry::metrics::Limit;

/// A resource of which there are only so many places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// Uploads of batches.
    Uploads,
    /// Dry runs: each needs as much memory as applying a batch.
    DryRuns,
    /// Exports.
    Exports,
    /// Erasures of many visitors.
    Erasures,
    /// Feeds of changes.
    Changes,
    /// Reports of batches, and their files.
    Reports,
    /// Searches for the lines that set a visitor's attributes.
    LineSearches,
    /// Counts of visitors, and searches by the value of an attribute: each reads the store.
    Counts,
    /// Compactions, snapshots and backups.
    Tasks,
    /// Streams of events: of a batch, and of calls as they come in.
    EventStreams,
    /// Site calls in JSON with large bodies.
    LargeCalls,
}

impl Scarce {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Uploads,
        Self::DryRuns,
        Self::Exports,
        Self::Erasures,
        Self::Changes,
        Self::Reports,
        Self::LineSearches,
        Self::Counts,
        Self::Tasks,
        Self::EventStreams,
        Self::LargeCalls,
    ];

    /// The limit that a caller hits when no place is free.
    pub const fn limit(self) -> Limit {
        match self {
            Self::Uploads => Limit::ConcurrentUploads,
            Self::DryRuns => Limit::ConcurrentDryRuns,
            Self::Exports => Limit::ConcurrentExports,
            Self::Erasures => Limit::ConcurrentErasures,
            Self::Changes => Limit::ConcurrentChanges,
            Self::Reports => Limit::ConcurrentReports,
            Self::LineSearches => Limit::ConcurrentLineSearches,
            Self::Counts => Limit::ConcurrentCounts,
            Self::Tasks => Limit::ConcurrentTasks,
            Self::EventStreams => Limit::EventStreams,
            Self::LargeCalls => Limit::ConcurrentLargeCalls,
        }
    }

    /// Its name in the labels of the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uploads => "uploads",
            Self::DryRuns => "dry_runs",
            Self::Exports => "exports",
            Self::Erasures => "erasures",
            Self::Changes => "changes",
            Self::Reports => "reports",
            Self::LineSearches => "line_searches",
            Self::Counts => "counts",
            Self::Tasks => "chores",
            Self::EventStreams => "event_streams",
            Self::LargeCalls => "large_calls",
        }
    }

    /// The message for a client who finds no place.
    pub(in crate::engine) fn none_free(self, max: usize) -> String {
        match self {
            Self::Uploads => "too many uploads at once; try again".into(),
            Self::DryRuns => "too many dry runs wait for their turn; try again".into(),
            Self::Exports => format!("{max} exports are running, no more run at once; try again"),
            Self::Erasures => {
                format!("{max} files of ids are being erased, no more are at once; try again")
            }
            Self::Changes => format!("{max} feeds of changes are open, no more are at once; try again"),
            Self::Reports => {
                format!("{max} reports of batches are being read, no more are at once; try again")
            }
            Self::LineSearches => "too many searches for lines wait for their turn; try again, or leave \
                 lines=true out"
                .into(),
            Self::Counts => {
                "too many counts of visitors and searches by a value wait for their turn; try again".into()
            }
            Self::Tasks => "too many compactions and backups wait for their turn; try again later".into(),
            Self::EventStreams => format!(
                "{max} streams of events are open, no more are at once: close one, or ask for the batch itself now and then"
            ),
            Self::LargeCalls => format!(
                "{max} calls with bodies of more than 1 MiB are being read, no more are at once; try again"
            ),
        }
    }

    /// The message for a client whose place another caller got.
    pub(in crate::engine) const fn made_room(self) -> &'static str {
        match self {
            Self::Uploads => {
                "the upload made room for somebody else's: you had more than your share, and this one brought least; \
                 send it again, all of it without a pause"
            }
            Self::DryRuns | Self::LineSearches | Self::Counts | Self::Tasks => {
                "the call made room for somebody else's: you had more than your share waiting; try again"
            }
            Self::LargeCalls => {
                "the call made room for somebody else's: you had more large ones than your share, and this one brought \
                 least; send it again, all of it without a pause"
            }
            Self::Erasures => {
                "the erasure made room for somebody else's: you had more than your share; send the file again, which goes on \
                 where it stopped"
            }
            Self::Exports | Self::Changes | Self::Reports | Self::EventStreams => {
                "the answer made room for somebody else's: you had more than your share, and this one was read least"
            }
        }
    }
}
