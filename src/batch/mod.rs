//! Batches: the file's format, the upload, the pending rows in front of the store, and their folding in.

pub mod checksum;
pub mod csv;
pub mod encoding;
pub mod fold;
pub mod outcome;
pub mod pending;
pub mod queue;
pub mod rows;
pub mod settle;
pub mod spool;
