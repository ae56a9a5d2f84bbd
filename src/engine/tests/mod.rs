//! Tests of rooms that need a whole engine around them.

mod rebuild_beside;
mod statistics;
