//! A daemon as one node of several: founding an order and joining it, telling each other how one is, trimming the order, and
//! passing changes on to a topic.
//!
//! ```text
//! mod.rs        what a node is made of
//! folder.rs     which order a data folder belongs to
//! join.rs       founding an order, and joining it
//! report.rs     what a node reports of itself
//! transport.rs  the logs of the order that the settings name
//! roster.rs     the nodes as they were last heard of, and who is waited for
//! members.rs    who is there: reports, reads the others' reports, trims the order
//! changes.rs    passes the changes of all clients on to a topic
//! flight.rs     which of them are not acknowledged yet
//! status.rs     how the nodes are, as people are told
//! ```
//!
//! Only `transport.rs` knows that the logs are Kafka's; tests make a [`Transport`] in memory.
//!
//! Promises: nothing here decides anything about profiles. What is lost here loses no data.

mod changes;
mod flight;
mod folder;
mod join;
mod members;
mod report;
mod roster;
mod status;
mod transport;

pub use changes::WriteEvent;
pub use folder::{FolderCluster, Founded};
pub use join::{FetchSnapshot, Identity, JoinError, Joined, SNAPSHOT_NAME, found, join};
pub use members::Members;
pub use report::{NodeReport, NodeState, hash_of};
pub use roster::{ASKING_NODE, AskPeer, Member, PeerAnswer, PeerCall, Roster, Watched};
pub use status::{ClusterStatus, NodeStatus};
pub use transport::{Transport, open};
