//! Batches: the file's format, the upload, the pending rows in front of the store, and their folding in.

pub mod apply;
pub mod as_adobe;
pub mod bundles;
pub mod catalogue;
pub mod checksum;
pub mod csv;
pub mod encoding;
pub mod form;
#[cfg(test)]
mod in_pieces;
pub mod kept;
pub mod outcome;
pub mod pending;
pub mod pending_list;
pub mod queue;
pub mod remarks;
pub mod resolve;
pub mod rows;
pub mod spool;
