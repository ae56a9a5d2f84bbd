//! The `profiled` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    profiled::cli::main()
}
