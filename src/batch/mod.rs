//! Batches: the file's format, the upload, the pending rows in front of the store, and applying them.
//!
//! | files | what they own |
//! | --- | --- |
//! | [`csv`], [`encoding`], [`form`], [`remarks`], [`as_adobe`] | the batch file: its format, its compression, what is remarkable in it |
//! | [`accepted`], [`progress`], [`outcomes_file`] | a batch: what it is, how far it is, what became of its rows |
//! | [`checksum`], [`spool`], [`rows`] | the uploaded file: whether it is what was accepted, where it lies, reading its rows |
//! | [`bundles`], [`index`], [`found`] | finding a batch's rows by id |
//! | [`pending`], [`pending_list`], [`resolve`], [`apply`] | pending rows: keeping them, resolving a visitor's, applying a batch's |
//! | [`known_names`] | the names of attributes that profiles have, and what is new of a batch |
//! | [`catalogue`], [`kept`], [`queue`] | all batches: on the disk, in memory, and whose turn it is |

pub mod accepted;
pub mod apply;
pub mod as_adobe;
pub mod bundles;
pub mod catalogue;
pub mod checksum;
pub mod csv;
pub mod encoding;
pub mod form;
pub mod found;
#[cfg(test)]
mod in_pieces;
pub mod index;
mod index_entry;
pub mod kept;
pub mod known_names;
pub mod outcomes_file;
pub mod pending;
pub mod pending_list;
pub mod progress;
pub mod queue;
pub mod remarks;
pub mod resolve;
pub mod rows;
pub mod spool;
pub mod tally;
