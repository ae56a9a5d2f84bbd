//! Seeds of the randomised tests: each runs with one fixed seed, so that every run tries the same cases, and with a fresh one, so
//! that every run also tries new cases.
//!
//! A test that fails prints its seed. `PROFILED_TEST_SEED` set to it runs that one alone.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;

use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::variable;

/// The variable that names the only seed to run.
const VARIABLE: &str = "PROFILED_TEST_SEED";
/// Any number would do.
const FIXED: u64 = 1;

/// The one seed that was asked for, if one was.
pub fn asked_for() -> Option<u64> {
    variable(VARIABLE).map(|seed| seed.parse().unwrap_or_else(|_| panic!("{VARIABLE} is no number: {seed}")))
}

/// The fixed seed and a fresh one; or the one that was asked for.
pub fn seeds() -> Vec<u64> {
    asked_for().map_or_else(|| vec![FIXED, fresh()], |seed| vec![seed])
}

/// A seed that nobody knows beforehand.
pub fn fresh() -> u64 {
    // Short enough to be typed.
    RandomState::new().build_hasher().finish() >> 32
}

/// Runs a test with each seed.
pub fn with_each_seed(mut test: impl FnMut(u64)) {
    for seed in seeds() {
        with_seed(seed, || test(seed));
    }
}

/// Runs a test with this seed, which is printed if the test fails.
pub fn with_seed<T>(seed: u64, test: impl FnOnce() -> T) -> T {
    let _named = Named(seed);
    test()
}

/// A runner of proptest's that tries so many cases of this seed, and keeps no file of those that failed.
pub fn runner(seed: u64, cases: u32) -> TestRunner {
    TestRunner::new(config(seed, cases))
}

/// The same, as a configuration.
pub fn config(seed: u64, cases: u32) -> Config {
    Config {
        cases,
        max_shrink_iters: 2_000,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    }
}

/// Prints its seed if it is dropped while the test fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let test = thread.name().unwrap_or("the test");
            // Not captured with the test's output, because the summary of a run may not show that.
            let line = format!("\n{test} failed; {VARIABLE}={} runs the same again\n", self.0);
            std::io::stderr().write_all(line.as_bytes()).unwrap_or_default();
        }
    }
}
