//! The points where a test build can make an operation fail, or the process die.
//!
//! A test sets the environment variable `FAILPOINTS`: `name=return(abort)` kills the process, `name=return(full)` reports
//! a full disk, `name=return(error)` any other error. A build without the feature `failpoints` ignores all of this.
//! `tests/failpoints.rs` checks that some test reaches every point.

use std::io;

/// Passes the point `name`, or fails there if a test asked for it.
pub fn point(name: &str) -> io::Result<()> {
    fail::fail_point!(name, |action: Option<String>| match action.as_deref() {
        Some("abort") => std::process::abort(),
        Some("full") => Err(io::ErrorKind::StorageFull.into()),
        _ => Err(io::Error::other("failpoint")),
    });
    let _unused = name;
    Ok(())
}

/// The name of a point, for code whose caller says which points it passes.
#[derive(Debug, Clone, Copy)]
pub struct Failpoint(pub &'static str);

impl Failpoint {
    /// Passes the point, or fails there.
    pub fn pass(self) -> io::Result<()> {
        point(self.0)
    }

    /// Whether a test asked for the operation to be left out, as if it had succeeded. Tests use it to show that they
    /// notice a daemon that does not write, or does not sync.
    pub fn leaves_out(self) -> bool {
        fail::fail_point!(self.0, |_| true);
        false
    }
}
