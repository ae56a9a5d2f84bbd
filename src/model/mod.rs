//! The pure core: no async, no input or output, no clock.

pub mod author;
pub mod batch;
pub mod blocked;
pub mod bundle;
pub mod codec;
pub mod id;
pub mod profile;
pub mod seq;
pub mod update;
