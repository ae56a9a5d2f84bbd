//! What a node reports of itself every two seconds, and when it has taken in a file, for the other nodes and for people.
//!
//! Promises: reading any bytes never panics; a report with fields that this program does not know is read without them.

use crate::config::{ClientSettings, Config};
use serde::{Deserialize, Serialize};

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It has just begun, and its folder may not be open yet.
    #[default]
    Starting,
    /// It reads what the order has, and takes no writes.
    Behind,
    /// It takes calls.
    Serving,
    /// It cannot reach the order.
    CutOff,
    /// It cannot apply what comes next in the order.
    Standing,
    /// It was stopped in order.
    Stopped,
}

impl NodeState {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Behind => "behind",
            Self::Serving => "serving",
            Self::CutOff => "cut-off",
            Self::Standing => "standing",
            Self::Stopped => "stopped",
        }
    }
}

/// What a node reports of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Its run.
    pub run: String,
    /// Which order it belongs to.
    pub cluster: String,
    /// Where it can be reached.
    pub address: String,
    /// Its program's version.
    pub version: String,
    /// The newest version of the rules that it knows.
    pub rules: u8,
    /// How it is.
    pub state: NodeState,
    /// The offset behind the last record that it has applied.
    pub applied: u64,
    /// The time of the last request that it has applied, in milliseconds.
    pub applied_at_ms: u64,
    /// The offset that its newest snapshot has everything before.
    pub snapshot: u64,
    /// Pieces of files before this offset are needed by nobody who has that snapshot.
    #[serde(default)]
    pub pieces: u64,
    /// It has taken in all pieces of files before this offset.
    #[serde(default)]
    pub files: u64,
    /// The sum over all that was decided up to the offset `checksum_at`.
    pub checksum: u32,
    /// The offset that the sum is of.
    pub checksum_at: u64,
    /// The hash of the settings that shape outcomes.
    pub settings: String,
    /// The bytes that are free on its disk.
    pub disk_free: u64,
    /// The topic to which it passes on changes, if it is its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_topic: Option<String>,
}

/// The hash of the settings that shape outcomes. Nodes with other settings give other outcomes to the calls that come to them.
pub fn hash_of(config: &Config) -> String {
    let mut sum = crc32c::crc32c(&config.limits.profile_bytes_max.to_le_bytes());
    let mut add = |name: &str, client: &ClientSettings| {
        let ClientSettings {
            v2_creates_profiles,
            consecutive_v2,
            batch_reading,
            blocked_ids,
            lifetime_ms,
            ..
        } = client;
        let shaping = format!(
            "{name} {v2_creates_profiles} {consecutive_v2:?} {batch_reading:?} {blocked_ids:?} {lifetime_ms}"
        );
        sum = crc32c::crc32c_append(sum, shaping.as_bytes());
    };
    for (name, client) in config.clients() {
        add(name.as_str(), client);
    }
    if config.clients().next().is_none() {
        add("", config.any_client());
    }
    format!("{sum:08x}")
}

impl NodeReport {
    /// The report's bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What these bytes say; none if they are no report.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
