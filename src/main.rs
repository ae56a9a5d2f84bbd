//! The `profiled` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // In test builds only: the faults that the variable FAILPOINTS names.
    #[cfg(feature = "failpoints")]
    let _faults = fail::FailScenario::setup();
    profiled::cli::main()
}
