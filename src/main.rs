//! The `profiled` binary.

use std::process::ExitCode;

/// The system's allocator keeps an arena a thread, each as large as the largest file applied on it: twice the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // In test builds only: the faults that the variable FAILPOINTS names.
    #[cfg(feature = "failpoints")]
    let _faults = fail::FailScenario::setup();
    profiled::cli::main()
}
