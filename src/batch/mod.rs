//! Batches: from the bytes of an upload to outcomes.

pub mod csv;
