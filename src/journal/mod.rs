//! What makes an acknowledged write durable: the log that every write goes through first.

pub mod log;
