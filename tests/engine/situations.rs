//! A table of situations that a randomised test counts over all its cases: a test that never reaches a situation shows
//! nothing about it, so a zero fails the run.

/// Makes the table of a module: what there is to meet, how to count it, and what was counted.
macro_rules! situations {
    ($($name:ident: $says:literal,)+) => {
        /// A situation worth reaching.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Met { $($name,)+ }

        const SAYS: &[&str] = &[$($says,)+];

        thread_local! {
            static COUNTS: std::cell::RefCell<Counts> = const { std::cell::RefCell::new(Counts([0; SAYS.len()])) };
        }

        /// How often each situation was met.
        #[derive(Debug, Clone)]
        pub(crate) struct Counts([u64; SAYS.len()]);

        /// Counts a situation, on this thread.
        pub(crate) fn met(what: Met) {
            COUNTS.with_borrow_mut(|counts| counts.0[what as usize] += 1);
        }

        /// What this thread met so far.
        pub(crate) fn counts() -> Counts {
            COUNTS.with_borrow(Clone::clone)
        }

        impl Counts {
            pub(crate) fn add(&mut self, more: &Self) {
                self.0.iter_mut().zip(more.0).for_each(|(count, more)| *count += more);
            }

            /// The situations never met.
            pub(crate) fn never(&self) -> Vec<&'static str> {
                SAYS.iter().zip(self.0).filter(|(_, count)| *count == 0).map(|(says, _)| *says).collect()
            }
        }

        impl std::fmt::Display for Counts {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                SAYS.iter().zip(self.0).try_for_each(|(says, count)| writeln!(f, "{count:>9}  {says}"))
            }
        }
    };
}
