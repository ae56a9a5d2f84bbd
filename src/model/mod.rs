//! The pure core: no async, no input or output, no clock.

pub mod id;
pub mod seq;
