//! What callers read: one visitor, all visitors, a batch, counts.
//!
//! ```text
//! lookup.rs      one visitor as of now: the stored profile with the pending rows applied
//! search.rs      visitors by the beginning of an id
//! active.rs      the visitors who were active last
//! by_value.rs    visitors by the value of an attribute
//! export.rs      all visitors of a client, page by page
//! changes.rs     every write to a client's visitors, in the order of seqs
//! batch_list.rs  the batches of a client, newest first, page by page
//! report.rs      what happened to the rows of a batch, its repair file, its upload
//! comparison.rs  a batch beside an earlier one
//! distribution.rs  how often an attribute has which value in a batch
//! provenance.rs  which line of which upload set an attribute
//! statistics.rs  how many visitors a client has, and how fast batches came
//! ```
//!
//! Promises: nothing in this room writes to the journal or the store.

mod active;
pub(in crate::engine) mod batch_list;
pub mod by_value;
pub mod changes;
pub mod clients;
pub mod comparison;
pub mod distribution;
pub mod export;
pub mod lookup;
pub mod provenance;
pub mod report;
pub mod search;
pub(in crate::engine) mod state;
pub mod statistics;
