//! The `profiled` binary.

fn main() {}
